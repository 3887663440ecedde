"""The attention mask of rows in which several conversations share an image prefix."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mask(branches: Tensor) -> Tensor:
    """Who sees whom, for scaled dot product attention.

    A token sees itself and the tokens before it that have branch 0 (the shared prefix) or its own branch. Padding
    (branch -1) is seen by nobody and sees itself only, so that its softmax stays finite.

    Args:
        branches: [B, T] int64, as in `schema.Batch`.

    Returns:
        [B, 1, T, T] bool, True where the query (third axis) sees the key (last axis).
    """
    query, key = branches[:, :, None], branches[:, None, :]
    length = branches.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=branches.device)
    sees = causal & (query >= 0) & ((key == query) | (key == 0))
    return (sees | itself)[:, None]
