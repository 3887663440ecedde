"""SAM's attention without the tensor of relative positions.

SAM adds to the score of query q and key k a term of their rows and a term of their columns:

    rows[q, row of k] + columns[q, column of k],    rows[q, i] = q . R_h[row of q - i], columns alike

transformers writes this out for every pair, 805 MB a layer and image at full size in float32 (12 heads, 4096 x 4096
tokens), and in training once more for every step of the softmax. Here a query keeps its H + W terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from dsvl_tune.kernels.onednn_linear import product

BLOCK = 2**19
"""Scores in a block: 2 MB of float32, which stays in the processor's cache; half and double measured no better."""


class FoldedSamAttention(SamVisionSdpaAttention):
    """transformers' attention of SAM, windowed and global, with its own tensors and result."""

    def forward(
        self, hidden_states: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, None]:
        """From and to [B, H, W, D]."""
        if not self.use_rel_pos or output_attentions:
            return super().forward(hidden_states, output_attentions)
        batch, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, height * width, 3, self.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, H * W, d]
        grid = query.unflatten(2, (height, width))
        table_h = self.get_rel_pos(height, height, self.rel_pos_h)
        table_w = self.get_rel_pos(width, width, self.rel_pos_w)
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, table_h).flatten(2, 3)
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, table_w).flatten(2, 3)
        if query.device.type == "cpu" and query.dtype == torch.float32:
            attended = block_attention(query, key, value, rows, columns, self.scale)
        else:
            attended = widened_attention(query, key, value, rows, columns, self.scale)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1)), None


def widened_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """Attention whose terms ride in its operands, so that a fused kernel can be used.

    The terms are a product of (rows, columns) with the key's one-hot row and one-hot column. Values are padded to the
    same width, without which no fused kernel takes them.

    Args:
        query, key, value: [B, heads, H * W, d].
        rows: [B, heads, H * W, H].
        columns: [B, heads, H * W, W].
        scale: of the scores, without the terms.
    """
    height, width = rows.shape[-1], columns.shape[-1]
    row, column = (torch.eye(size, dtype=key.dtype, device=key.device) for size in (height, width))
    row_of_key = row.repeat_interleave(width, 0).expand(*key.shape[:-1], -1)
    column_of_key = column.repeat(height, 1).expand(*key.shape[:-1], -1)
    attended = F.scaled_dot_product_attention(
        torch.cat([query, rows / scale, columns / scale], -1),
        torch.cat([key, row_of_key, column_of_key], -1),
        F.pad(value, (0, height + width)),
        scale=scale,
    )
    return attended[..., : value.shape[-1]]


@torch.compiler.disable  # which would write out hundreds of blocks
def block_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """`widened_attention` in blocks."""
    operands = [tensor.flatten(0, 1) for tensor in (query, key, value, rows, columns)]
    return BlockAttention.apply(*operands, scale).view_as(query)


class BlockAttention(torch.autograd.Function):
    """The same block by block, each small enough for the cache; the backward pass makes the blocks again.

    Widened operands cost three times the products at full size, which a CPU notices; here they cost two additions.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Tensor,
        columns: Tensor,
        scale: float,
    ) -> Tensor:
        """query, key, value [B * heads, H * W, d], rows [.., .., H], columns [.., .., W]; to [B * heads, H * W, d]."""
        ctx.save_for_backward(query, key, value, rows, columns)
        ctx.scale = scale
        attended = torch.empty_like(query)
        key, value = key.contiguous(), value.contiguous()  # once, not in every block
        for heads, queries in blocks(query):
            share = shares(
                query[heads, queries] * scale,
                key[heads],
                rows[heads, queries],
                columns[heads, queries],
            )
            attended[heads, queries] = products(share, value[heads].mT)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, rows, columns = ctx.saved_tensors
        of_query, of_rows, of_columns = (
            torch.empty_like(tensor) for tensor in (query, rows, columns)
        )
        key, value = key.contiguous(), value.contiguous()
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        for heads, queries in blocks(query):
            scaled = query[heads, queries] * ctx.scale
            share = shares(scaled, key[heads], rows[heads, queries], columns[heads, queries])
            of_value[heads] += products(
                grad[heads, queries].mT, share.mT
            ).mT  # oneDNN likes the long side as columns
            of_share = products(grad[heads, queries], value[heads])
            of_scores = torch._softmax_backward_data(of_share, share, -1, share.dtype)
            by_row_and_column = of_scores.unflatten(-1, (rows.shape[-1], columns.shape[-1]))
            of_rows[heads, queries] = by_row_and_column.sum(-1)
            of_columns[heads, queries] = by_row_and_column.sum(-2)
            of_query[heads, queries] = products(of_scores, key[heads].mT) * ctx.scale
            of_key[heads] += products(scaled.mT, of_scores.mT).mT
        return of_query, of_key, of_value, of_rows, of_columns, None


def blocks(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Several heads at once where a head's scores are few (windows), some queries of one head where they are many."""
    count, tokens = query.shape[:2]
    heads = max(1, BLOCK // tokens**2)
    queries = max(1, BLOCK // tokens) if heads == 1 else tokens
    for first in range(0, count, heads):
        for start in range(0, tokens, queries):
            yield slice(first, first + heads), slice(start, start + queries)


def shares(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax of a block's scores: [N, Q, H * W]."""
    scores = products(query, key)
    by_row_and_column = scores.unflatten(-1, (rows.shape[-1], columns.shape[-1]))
    by_row_and_column += rows[..., :, None]
    by_row_and_column += columns[..., None, :]
    return scores.softmax(-1)


def products(left: Tensor, right: Tensor) -> Tensor:
    """[N, P, K] and [N, Q, K] to [N, P, Q]."""
    if len(left) == 1:
        return product(left[0], right[0])[None]
    return left @ right.mT
