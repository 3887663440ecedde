"""Attention masks of rows with several conversations, for both kinds of attention kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError

Attention = Literal["sdpa", "flex"]
FLEX = "flex_attention"  # transformers' name


def attention_mask(segment_ids: Tensor, branch_ids: Tensor) -> Tensor:
    """The mask for scaled dot product attention.

    A token attends to itself and to earlier tokens of its segment that have branch id 0 (a shared
    prefix) or its own branch id. Padding is a segment of its own: no other token attends to it, and
    its softmax stays finite.

    Args:
        segment_ids: [B, T] int64, segment ids as in `Batch`.
        branch_ids: [B, T] int64, branch ids as in `Batch`.

    Returns:
        [B, 1, T, T] bool, True where the query (third axis) attends to the key (last axis).
    """
    length = branch_ids.shape[1]
    attends = (branch_ids[:, :, None] == branch_ids[:, None, :]) | (branch_ids[:, None, :] == 0)
    attends &= segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch_ids.device).tril()
    return attends.logical_and_(causal)[:, None]


def mask_rule(segment_ids: Tensor, branch_ids: Tensor) -> Callable[..., Tensor]:
    """`attention_mask` as a function of (row, head, query, key), for FlexAttention.

    Args:
        segment_ids: [B, T] int64, segment ids.
        branch_ids: [B, T] int64, branch ids.
    """

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query attends to a key: scalars int64, to a scalar bool."""
        branch = branch_ids[row, key]
        related = (branch == 0) | (branch == branch_ids[row, query])
        return related & (segment_ids[row, key] == segment_ids[row, query]) & (key <= query)

    return attends


def decoder_attention(
    model: PreTrainedModel, segment_ids: Tensor, branch_ids: Tensor, position_ids: Tensor
) -> dict[str, Tensor | BlockMask | None]:
    """The decoder's arguments that separate the conversations of a batch.

    A batch with one conversation per row needs none: padding is on the right, where no supervised
    token attends to it, and without a mask the kernel skips everything above the diagonal.
    Positions are left out as well then: transformers takes restarting positions, as those of
    padding, for a packed row and would build the mask.

    Args:
        model: whose language model attends.
        segment_ids: [B, T] int64, segment ids as in `Batch`.
        branch_ids: [B, T] int64, branch ids as in `Batch`.
        position_ids: [B, T] int64.
    """
    if not bool(((branch_ids > 0) | (segment_ids > 0)).any()):
        return {"attention_mask": None, "position_ids": None}
    if model.model.language_model.config._attn_implementation != FLEX:
        return {
            "attention_mask": attention_mask(segment_ids, branch_ids),
            "position_ids": position_ids,
        }
    return {
        "attention_mask": block_mask(segment_ids, branch_ids),
        "position_ids": position_ids,
    }


def block_mask(segment_ids: Tensor, branch_ids: Tensor) -> BlockMask:
    """`attention_mask` for FlexAttention; same arguments."""
    rows, length = branch_ids.shape
    rule = mask_rule(segment_ids, branch_ids)
    return create_block_mask(rule, rows, None, length, length, device=branch_ids.device)


def use_attention(model: PreTrainedModel, kind: Attention) -> None:
    """Give the language model a kind of attention kernel; the towers keep theirs.

    Raises:
        UserError: FlexAttention without a GPU; its CPU kernel has no backward pass (torch 2.13).
    """
    if kind == "flex" and not torch.cuda.is_available():
        raise UserError(
            "model.attention: flex needs a GPU: FlexAttention cannot train on a CPU. Use sdpa, "
            "which gives the same result."
        )
    model.set_attn_implementation({"text_config": FLEX if kind == "flex" else "sdpa"})


@contextmanager
def answering(model: PreTrainedModel) -> Iterator[None]:
    """Plain attention for `generate`, without compiled layers.

    Those would be compiled again and again as the key-value cache grows.
    """
    kind = model.model.language_model.config._attn_implementation
    model.set_attn_implementation({"text_config": "sdpa"})
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation({"text_config": kind})
