"""Who sees whom in rows that hold several conversations, for both kinds of attention kernel."""

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


def attention_mask(segments: Tensor, branches: Tensor) -> Tensor:
    """Who sees whom, for scaled dot product attention.

    A token sees itself and the tokens before it of its segment that have branch 0 (a shared prefix) or its own branch.
    Padding is a segment of its own: nobody else sees it, and its softmax stays finite.

    Args:
        segments, branches: [B, T] int64, as in `schema.Batch`.

    Returns:
        [B, 1, T, T] bool, True where the query (third axis) sees the key (last axis).
    """
    length = branches.shape[1]
    sees = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    sees &= segments[:, :, None] == segments[:, None, :]
    return sees.logical_and_(
        torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    )[:, None]


def mask_rule(segments: Tensor, branches: Tensor) -> Callable[..., Tensor]:
    """The rule of `attention_mask` token by token, as FlexAttention asks it: (row, head, query, key) -> bool."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        branch = branches[row, key]
        related = (branch == 0) | (branch == branches[row, query])
        return related & (segments[row, key] == segments[row, query]) & (key <= query)

    return sees


def decoder_attention(
    model: PreTrainedModel, segments: Tensor, branches: Tensor, position_ids: Tensor
) -> dict[str, Tensor | BlockMask | None]:
    """The arguments that hold a batch's conversations apart, for the model's kind of attention.

    A batch with one conversation a row needs none: padding is on the right, where no supervised token sees it, and without
    a mask the kernel skips what lies above the diagonal. Positions are left out too then, because transformers takes
    positions that start anew, as the padding's do, for a packed row, and would make the mask.

    Args:
        model: whose language model attends.
        segments, branches, position_ids: [B, T] int64, as in `schema.Batch`.
    """
    if not bool(((branches > 0) | (segments > 0)).any()):
        return {"attention_mask": None, "position_ids": None}
    if model.model.language_model.config._attn_implementation != FLEX:
        return {"attention_mask": attention_mask(segments, branches), "position_ids": position_ids}
    rows, length = branches.shape
    rule = mask_rule(segments, branches)
    mask = create_block_mask(rule, rows, None, length, length, device=branches.device)
    return {"attention_mask": mask, "position_ids": position_ids}


def use_attention(model: PreTrainedModel, kind: Attention) -> None:
    """Give the language model a kind of attention kernel; the towers keep theirs.

    Raises:
        UserError: FlexAttention is wanted without a GPU; its CPU kernel has no backward pass (torch 2.13).
    """
    if kind == "flex" and not torch.cuda.is_available():
        raise UserError(
            "model.attention: flex, but there is no GPU here, and FlexAttention cannot train on a CPU. "
            "Take sdpa, which gives the same result."
        )
    model.set_attn_implementation({"text_config": FLEX if kind == "flex" else "sdpa"})


@contextmanager
def answering(model: PreTrainedModel) -> Iterator[None]:
    """For `generate`: plain attention, and no compiled layers, which would be compiled anew as the cache grows."""
    kind = model.model.language_model.config._attn_implementation
    model.set_attn_implementation({"text_config": "sdpa"})
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation({"text_config": kind})
