"""Named colors, and how a picture varies them."""

from __future__ import annotations

import random

Color = tuple[int, int, int]

# Eight hues far enough apart to stay distinct after the jitter.
COLORS: dict[str, Color] = {
    "red": (215, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (225, 205, 20),
    "green": (40, 160, 60),
    "cyan": (60, 195, 215),
    "blue": (40, 80, 205),
    "purple": (140, 60, 175),
    "black": (45, 45, 45),
}
JITTER = 14
"""Largest change of a channel, of 255."""


def shade(rng: random.Random, name: str) -> Color:
    """The named color with jitter on each channel."""
    red, green, blue = (min(255, max(0, c + rng.randint(-JITTER, JITTER))) for c in COLORS[name])
    return red, green, blue


def outline(color: Color) -> Color:
    """A darker edge for a filled shape."""
    red, green, blue = (c * 6 // 10 for c in color)
    return red, green, blue
