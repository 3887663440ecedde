"""Finding the same image at another size or quality."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

MAX_DISTANCE = 5
"""Bits of 64 in which the hashes of two images may differ to count as the same image."""
CLEARLY_BRIGHTER = 4
"""Levels of 255 from which one pixel counts as brighter: even areas give zeros and no noise."""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: in a 9 x 8 gray thumbnail, whether a pixel's right neighbor is clearly brighter.

    This is the "difference hash" of image search (dHash): the same image at another size or
    quality differs in a few bits.
    """
    gray = image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes()
    bits = (
        gray[9 * y + x] + CLEARLY_BRIGHTER < gray[9 * y + x + 1] for y in range(8) for x in range(8)
    )
    return sum(bit << i for i, bit in enumerate(bits))


class HashIndex:
    """A set of hashes that finds those close to a given one.

    It compares with all of them, 64 bits at a time. An index over parts of a hash would not help:
    in pages and drawings most parts are zeros. Hashes of flat images, with fewer than 4 bits
    set or fewer than 4 not set, match by accident and are left out.

    Args:
        hashes: the set.
    """

    def __init__(self, hashes: Iterable[int]) -> None:
        distinctive = {one for one in hashes if 4 <= one.bit_count() <= 60}
        self.hashes = np.array(sorted(distinctive), dtype=np.uint64)

    def near(self, wanted: int) -> list[int]:
        """Hashes of the set that differ from this one in at most `MAX_DISTANCE` bits."""
        distances = np.bitwise_count(self.hashes ^ np.uint64(wanted))
        found: list[int] = self.hashes[distances <= MAX_DISTANCE].tolist()
        return found
