"""Padded and scaled pictures that are kept on disk, so that none is decoded and scaled twice."""

from __future__ import annotations

import torch

from dsvl_tune.data.cache import cache_folder
from dsvl_tune.data.seen import rule_digest
from dsvl_tune.schema import ImageRule
from dsvl_tune.tensor_store import Shapes, TensorStore


def kept_squares(rule: ImageRule, max_gb: float) -> TensorStore:
    """The store of squares by that rule, uint8 [3, S, S] each, in the cache folder; workers and runs share it."""
    shapes: Shapes = {"square": (3, rule.size, rule.size)}
    return TensorStore(
        cache_folder("squares"),
        rule_digest(rule).hex()[:32],
        shapes,
        torch.uint8,
        int(max_gb * 1e9),
    )
