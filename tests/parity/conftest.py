"""Which golden pictures this machine's Pillow can be held to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import PIL
import pytest
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def comparable() -> Callable[[str, str], bool]:
    """Whether the golden pixels of a picture can be expected: the reference ran on Pillow 13.

    Another JPEG decoder gives other bytes, as the golden files' README says. And Pillow 12, which
    Python 3.10 gets, shrinks one of the images (160 to 153 px) by up to 4 gray levels otherwise;
    it agrees on all the others.
    """

    def held(family: str, image: str) -> bool:
        records = json.loads(
            (GOLDEN / family / "pixels" / "pixels.json").read_text(encoding="utf-8")
        )["images"]
        record = next(record for record in records if record["image"] == image)
        decoded = Image.open(GOLDEN / family / image).convert("RGB").tobytes()
        same = hashlib.sha256(decoded).hexdigest() == record["rgb_sha256"]
        assert same or image.endswith(".jpg"), image
        shrunk_otherwise = int(PIL.__version__.split(".")[0]) < 13 and (family, image) == (
            "siglip",
            "images/photo.jpg",
        )
        return same and not shrunk_otherwise

    return held
