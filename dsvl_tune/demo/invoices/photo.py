"""A page as a hand-held camera or an old scanner sees it."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageFilter

TILT = 2.5
"""Most degrees that a page is turned by."""
SHADOW = 0.22
"""Most light that the darkest side of a page lacks, of 1."""
NOISE = 7.0
"""Most standard deviation of the noise, in gray levels of 255."""
BLUR = 0.7
"""Largest radius of the blur in px."""


def photograph(rng: random.Random, page: Image.Image) -> Image.Image:
    """Lay a page on a table and take its picture: tilted, unevenly lit, blurred, with noise.

    Args:
        rng: What decides.
        page: In RGB.

    Returns:
        A somewhat larger RGB picture.
    """
    edge = rng.randint(8, 30)
    gray = rng.randint(70, 190)
    table = (gray, gray - rng.randint(0, 25), gray - rng.randint(0, 45))  # wood, stone
    canvas = Image.new("RGB", (page.width + 2 * edge, page.height + 2 * edge), table)
    canvas.paste(page, (edge, edge))
    tilted = canvas.rotate(rng.uniform(-TILT, TILT), Image.Resampling.BILINEAR, fillcolor=table)
    blurred = tilted.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    levels = np.asarray(blurred, dtype=np.float32) * _light(rng, *canvas.size)[:, :, None]
    grain = np.random.default_rng(rng.getrandbits(32)).standard_normal(
        levels.shape[:2], dtype=np.float32
    )
    levels += np.float32(rng.uniform(1, NOISE)) * grain[:, :, None]
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _light(rng: random.Random, width: int, height: int) -> np.ndarray:
    """Light that falls from one side: [H, W] float32 in 0..1."""
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(rng.uniform(-1, 1))
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(rng.uniform(-1, 1))
    shade = (across + down + 2) / 4
    return 1 - np.float32(rng.uniform(0.02, SHADOW)) * shade
