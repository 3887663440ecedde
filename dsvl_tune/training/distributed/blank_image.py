"""An image that nothing shows: it makes the vision towers run, and changes no result."""

from __future__ import annotations

from dataclasses import replace

import torch

from dsvl_tune.core.types import Batch, ImageRule, Prompts


def with_image(batch: Batch | Prompts, rule: ImageRule) -> Batch | Prompts:
    """The batch itself if it has images, else with a blank one that fills no slot.

    Every tensor that images are encoded with then gets a gradient, of zeros.
    """
    if batch.pixel_values is not None:
        return batch
    device = batch.input_ids.device
    sizes = [branch.size if branch else None for branch in (rule.low, rule.high)]
    low, high = (torch.zeros(1, 3, size, size, device=device) if size else None for size in sizes)
    return replace(batch, pixel_values=low, high_res_pixel_values=high)
