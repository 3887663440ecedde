"""Padded and scaled pictures that are kept on disk, so that none is decoded and scaled twice."""

from __future__ import annotations

import torch

from dsvl_tune.core.cache_folder import cache_folder
from dsvl_tune.core.tensor_cache import Shapes, TensorCache
from dsvl_tune.core.types import ImageRule
from dsvl_tune.data.images.lookup import rule_digest


def padded_image_cache(rule: ImageRule, max_gb: float) -> TensorCache:
    """The store of squares by that rule, uint8 [3, S, S] each, in the cache folder; workers and runs share it."""
    shapes: Shapes = {"square": (3, rule.size, rule.size)}
    return TensorCache(
        cache_folder("squares"),
        rule_digest(rule).hex()[:32],
        shapes,
        torch.uint8,
        int(max_gb * 1e9),
    )
