"""How far transformers' image processor is from the original's rule, measured on a written checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.types import Branch
from dsvl_tune.data.images.load import to_pixels

SIZES = (
    (640, 480),
    (1920, 1080),
    (640, 426),
    (500, 333),
    (333, 500),
    (1366, 768),
    (1240, 1754),
    (1000, 300),
)
"""Width and height in px of what people have: cameras, screens, a page at 150 dpi, a strip."""


class Difference(NamedTuple):
    """Of one picture size, in grey levels of 0..255, over both branches."""

    width: int
    height: int
    mean: float
    largest: float


def pixel_differences(checkpoint: Checkpoint) -> list[Difference]:
    """The pixels of transformers' own processor (PIL backend) against those that training and `chat` use.

    Args:
        checkpoint: in transformers' layout.
    """
    plain = AutoImageProcessor.from_pretrained(checkpoint.folder, backend="pil")
    rule = checkpoint.processor.image_rule
    found = []
    for width, height in SIZES:
        image = picture(width, height)
        theirs, ours = plain(images=image, return_tensors="pt"), to_pixels(image, rule, "")
        levels = [grey_levels(theirs["pixel_values"][0], ours.low, rule.low)]
        if rule.high is not None and ours.high is not None:
            levels.append(grey_levels(theirs["high_res_pixel_values"][0], ours.high, rule.high))
        mean = max(float(branch.mean()) for branch in levels)
        found.append(Difference(width, height, mean, max(float(branch.max()) for branch in levels)))
    return found


def picture(width: int, height: int) -> Image.Image:
    """Coarse noise with sharp bars: edges and areas, as charts and photographs have."""
    noise = np.random.default_rng(width * 10_000 + height).integers(
        0, 256, (8, 8, 3), dtype=np.uint8
    )
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    for left in range(0, width - 20, 60):
        image.paste((20, 20, 20), (left, height // 4, left + 11, height // 2))
    return image


def grey_levels(theirs: torch.Tensor, ours: torch.Tensor, branch: Branch) -> torch.Tensor:
    """Absolute difference of two normalised pictures [3, S, S], in grey levels."""
    return (theirs - ours).abs() * torch.tensor(branch.std).view(3, 1, 1) * 255
