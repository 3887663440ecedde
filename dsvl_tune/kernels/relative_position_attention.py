"""SAM's attention without materializing the relative position bias.

SAM adds to the score of query q and key k a term for their rows and a term for their columns
(arXiv 2112.01526, section 4.1):

    rows[q, row of k] + columns[q, column of k],    rows[q, i] = q . R_h[row of q - i]

transformers materializes the sum for every pair: 805 MB per layer and image at full size in float32
(12 heads, 4096 x 4096 tokens), and in training once more for every step of the softmax. Here each
query keeps its H + W terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from dsvl_tune.kernels.onednn_linear import linear

BLOCK = 2**19
"""Scores per block: 2 MB of float32, which fits the processor's cache; half and double measured no
better."""


class BlockedSamAttention(SamVisionSdpaAttention):
    """transformers' SAM attention, windowed and global, with the same tensors and result."""

    def forward(
        self, hidden_states: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, None]:
        """Attend within each image.

        Args:
            hidden_states: [B, H, W, D], floating.
            output_attentions: whether attention weights are wanted: transformers' own forward then
                runs.

        Returns:
            [B, H, W, D], same dtype, and None.
        """
        if not self.use_rel_pos or output_attentions:
            return super().forward(hidden_states, output_attentions)
        batch, height, width, _ = hidden_states.shape
        tokens = height * width
        qkv = self.qkv(hidden_states).view(batch, tokens, 3, self.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, H * W, d]
        grid = query.unflatten(2, (height, width))
        table_h = self.table(height, self.rel_pos_h)
        table_w = self.table(width, self.rel_pos_w)
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, table_h).flatten(2, 3)
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, table_w).flatten(2, 3)
        if query.device.type == "cpu" and query.dtype == torch.float32:
            attended = blocked_attention(query, key, value, rows, columns, self.scale)
        else:
            attended = widened_attention(query, key, value, rows, columns, self.scale)
        merged = attended.transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(merged), None

    def table(self, side: int, embeddings: Tensor) -> Tensor:
        """The embedding of every query's distance to every key, along one axis.

        transformers numbers the distances on the CPU, so that a GPU waits for them in each layer,
        and resizes embeddings that have the right length already, which has no deterministic
        gradient on a GPU.

        Args:
            side: H or W.
            embeddings: [L, d], of the distances; L is 2 * side - 1 unless they were trained at
                another size.

        Returns:
            [side, side, d] in the dtype of `embeddings`, the query first.
        """
        if len(embeddings) != 2 * side - 1:
            resized: Tensor = self.get_rel_pos(side, side, embeddings)
            return resized
        places = torch.arange(side, device=embeddings.device)
        return embeddings[places[:, None] - places + side - 1]


def widened_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """Attention with the position terms folded into its operands, so that a fused kernel applies.

    The terms equal the product of (rows, columns) with the key's one-hot row and one-hot column.
    Values are padded to the same width, without which no fused kernel accepts them.

    Args:
        query: [B, heads, H * W, d], floating.
        key: same shape and dtype.
        value: same shape and dtype.
        rows: [B, heads, H * W, H], same dtype.
        columns: [B, heads, H * W, W], same dtype.
        scale: of the scores, without the position terms.

    Returns:
        [B, heads, H * W, d], same dtype.
    """
    height, width = rows.shape[-1], columns.shape[-1]
    one_hot_rows = torch.eye(height, dtype=key.dtype, device=key.device)
    one_hot_columns = torch.eye(width, dtype=key.dtype, device=key.device)
    row_of_key = one_hot_rows.repeat_interleave(width, 0).expand(*key.shape[:-1], -1)
    column_of_key = one_hot_columns.repeat(height, 1).expand(*key.shape[:-1], -1)
    attended = F.scaled_dot_product_attention(
        torch.cat([query, rows / scale, columns / scale], -1),
        torch.cat([key, row_of_key, column_of_key], -1),
        F.pad(value, (0, height + width)),
        scale=scale,
    )
    return attended[..., : value.shape[-1]]


@torch.compiler.disable  # which would unroll hundreds of blocks
def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """`widened_attention` computed in blocks; same arguments, float32, and result."""
    operands = [tensor.flatten(0, 1) for tensor in (query, key, value, rows, columns)]
    return BlockedAttention.apply(*operands, scale).view_as(query)


class BlockedAttention(torch.autograd.Function):
    """Attention in blocks that fit the cache; the backward pass recomputes the blocks.

    Widened operands cost three times the arithmetic at full size, which a CPU notices; here the
    position terms cost two additions.
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
        """Attend block by block.

        Args:
            ctx: of autograd.
            query: [B * heads, H * W, d] float32.
            key: same shape.
            value: same shape.
            rows: [B * heads, H * W, H] float32.
            columns: [B * heads, H * W, W] float32.
            scale: of the scores, without the position terms.

        Returns:
            [B * heads, H * W, d] float32.
        """
        ctx.save_for_backward(query, key, value, rows, columns)
        ctx.scale = scale
        attended = torch.empty_like(query)
        key, value = key.contiguous(), value.contiguous()  # once, not in every block
        for heads, queries in blocks(query):
            weights = attention_weights(
                query[heads, queries] * scale,
                key[heads],
                rows[heads, queries],
                columns[heads, queries],
            )
            attended[heads, queries] = batched_linear(weights, value[heads].mT)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `forward`'s tensors, each float32 of its tensor's shape.

        Args:
            ctx: of autograd.
            grad: [B * heads, H * W, d] float32, of the result.
        """
        query, key, value, rows, columns = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_rows = torch.empty_like(rows)
        grad_columns = torch.empty_like(columns)
        key, value = key.contiguous(), value.contiguous()
        grad_key = torch.zeros_like(key)
        grad_value = torch.zeros_like(value)
        grid = (rows.shape[-1], columns.shape[-1])
        for heads, queries in blocks(query):
            scaled = query[heads, queries] * ctx.scale
            weights = attention_weights(
                scaled, key[heads], rows[heads, queries], columns[heads, queries]
            )
            # Transposed, because oneDNN is faster with the long side as columns.
            grad_value[heads] += batched_linear(grad[heads, queries].mT, weights.mT).mT
            grad_weights = batched_linear(grad[heads, queries], value[heads])
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            by_row_and_column = grad_scores.unflatten(-1, grid)
            grad_rows[heads, queries] = by_row_and_column.sum(-1)
            grad_columns[heads, queries] = by_row_and_column.sum(-2)
            grad_query[heads, queries] = batched_linear(grad_scores, key[heads].mT) * ctx.scale
            grad_key[heads] += batched_linear(scaled.mT, grad_scores.mT).mT
        return grad_query, grad_key, grad_value, grad_rows, grad_columns, None


def blocks(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of heads and of queries, with about `BLOCK` scores each.

    Several heads at once where a head has few scores (windows), some queries of one head where it
    has many.

    Args:
        query: [B * heads, H * W, d] float32.
    """
    count, tokens = query.shape[:2]
    heads = max(1, BLOCK // tokens**2)
    queries = max(1, BLOCK // tokens) if heads == 1 else tokens
    for first in range(0, count, heads):
        for start in range(0, tokens, queries):
            yield slice(first, first + heads), slice(start, start + queries)


def attention_weights(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax of the scores of a block.

    Args:
        query: [N, Q, d] float32, scaled.
        key: [N, H * W, d] float32.
        rows: [N, Q, H] float32.
        columns: [N, Q, W] float32.

    Returns:
        [N, Q, H * W] float32.
    """
    scores = batched_linear(query, key)
    by_row_and_column = scores.unflatten(-1, (rows.shape[-1], columns.shape[-1]))
    by_row_and_column += rows[..., :, None]
    by_row_and_column += columns[..., None, :]
    return scores.softmax(-1)


def batched_linear(left: Tensor, right: Tensor) -> Tensor:
    """left right^T for each of N: [N, P, K] and [N, Q, K] to [N, P, Q], float32."""
    if len(left) == 1:
        return linear(left[0], right[0])[None]
    return left @ right.mT
