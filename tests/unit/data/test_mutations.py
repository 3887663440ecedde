"""Pictures changed at random: each is read, or is an error with its place.

Rows, files, tars and tables are damaged by `tests/fuzz`.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref
from dsvl_tune.data.images.load import load_image


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "TGA", "AVIF"]
)
def test_pictures(kind: str) -> None:
    chance = random.Random(2)
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    errors = []
    for _ in range(150):
        content = bytearray(buffer.getvalue())
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(min(len(content), 200))] = chance.randrange(256)
        content = content[: chance.choice([len(content), chance.randrange(len(content))])]
        try:
            picture = load_image(
                image_ref(bytes(content), ImageSource(Path("root")), "x"), "rows:1"
            )
            assert picture.mode == "RGB"
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 30 and all(message.startswith("rows:1: image") for message in errors)
