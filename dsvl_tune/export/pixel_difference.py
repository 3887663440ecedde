"""How much transformers' image processor differs from ours, measured on a written checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor

from dsvl_tune.core.checkpoint import Checkpoint

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
"""Width and height in px of common images: cameras, screens, a page at 150 dpi, a strip."""


class Difference(NamedTuple):
    """Difference on one image size, in gray levels of 0..255; the larger one of all inputs.

    Attributes:
        width: of the image in px.
        height: of the image in px.
        mean: of all pixels.
        largest: of any pixel.
    """

    width: int
    height: int
    mean: float
    largest: float


def pixel_differences(checkpoint: Checkpoint) -> list[Difference]:
    """Compare transformers' own processor (PIL backend) with what training and `chat` use.

    Args:
        checkpoint: in transformers' layout.
    """
    plain = AutoImageProcessor.from_pretrained(checkpoint.folder, backend="pil")
    processor = checkpoint.processor
    family = processor.family
    differences = []
    for width, height in SIZES:
        image = picture(width, height)
        padded = family.pad_image(image, processor, images=1)
        inputs = family.normalize(family.vision_input(padded, processor), processor)
        ours = family.gray_levels(inputs, processor)
        theirs = family.gray_levels(plain(images=image, return_tensors="pt"), processor)
        apart = [(theirs[name] - levels).abs() for name, levels in ours.items()]
        mean = max(float(levels.mean()) for levels in apart)
        largest = max(float(levels.max()) for levels in apart)
        differences.append(Difference(width, height, mean, largest))
    return differences


def picture(width: int, height: int) -> Image.Image:
    """Coarse noise with sharp bars: edges and areas, as charts and photographs have."""
    draw = np.random.default_rng(width * 10_000 + height)
    noise = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    for left in range(0, width - 20, 60):
        image.paste((20, 20, 20), (left, height // 4, left + 11, height // 2))
    return image
