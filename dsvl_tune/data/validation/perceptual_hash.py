"""Finding a picture at another size or quality: candidates by a hash, confirmed on pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
"""Rows and columns of a hash: 256 bits."""
WORDS = SIDE * SIDE // 64
"""Words of 64 bits in a hash."""
MAX_DISTANCE = 24
"""Bits of 256 in which the hashes of two images may differ for them to be compared."""
CLEARLY_BRIGHTER = 4
"""Levels of 255 from which one pixel counts as brighter: even areas give zeros and no noise."""
THUMBNAIL_SIDE = 64
"""Side of the gray thumbnails that are compared, in px."""
MAX_DIFFERENCE = 0.1
"""Largest difference of two thumbnails of one picture, as a share of their contrast. Of generated
invoices, charts and photographs, the same one as JPEG of quality 30, gray, or at 0.6 times its size
differs by up to 0.09; two invoices that differ in their digits alone by at least 0.12."""
MIN_CONTRAST = 2.0
"""Standard deviation in levels of 255 below which a picture shows nothing, e.g. an empty page."""

Hashes = NDArray[np.uint64]
"""[N, 4]: 256 bits of each image."""
Thumbnail = NDArray[np.uint8]
"""[64 * 64] gray levels."""


def perceptual_hash(image: Image.Image) -> int:
    """256 bits: in a 17 x 16 gray thumbnail, whether a pixel's right neighbor is clearly brighter.

    This is the "difference hash" of image search (dHash): the same picture at another size or
    quality differs in a few bits. So do different pages of text, which have few bits set.
    """
    size = (SIDE + 1, SIDE)
    gray = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), dtype=np.int16)
    bits = gray[:, :-1] + CLEARLY_BRIGHTER < gray[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def as_words(hashes: Sequence[int]) -> Hashes:
    """Hashes as rows of `WORDS` words; none of no hashes."""
    content = b"".join(one.to_bytes(SIDE * SIDE // 8, "big") for one in hashes)
    return np.frombuffer(content, dtype=">u8").astype(np.uint64).reshape(-1, WORDS)


def near(hashes: Hashes, wanted: Hashes) -> NDArray[np.int64]:
    """Numbers of the hashes that differ from one, [4], in at most `MAX_DISTANCE` bits."""
    distances = np.bitwise_count(hashes ^ wanted).sum(axis=1)
    return np.flatnonzero(distances <= MAX_DISTANCE)


def thumbnail(image: Image.Image) -> Thumbnail:
    """The picture's gray thumbnail, its proportions dropped."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX)).reshape(-1)


def same_picture(one: Thumbnail, others: Sequence[Thumbnail]) -> NDArray[np.bool_]:
    """Whether each of the other thumbnails shows the same picture: [N] bool.

    The difference is the norm of the levels' difference over the larger norm of the levels, each
    without its mean, so neither brightness nor the amount of white around a few words matters.
    """
    if not others:
        return np.zeros(0, np.bool_)
    levels = np.stack([one, *others]).astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(levels, axis=1)
    differences = np.linalg.norm(levels[1:] - levels[0], axis=1)
    contrast = np.minimum(norms[1:], norms[0]) / THUMBNAIL_SIDE
    is_same: NDArray[np.bool_] = differences <= MAX_DIFFERENCE * np.maximum(norms[1:], norms[0])
    return is_same & (contrast >= MIN_CONTRAST)
