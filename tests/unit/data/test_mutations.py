"""Rows and pictures changed at random: each is read, or is an error with its place."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published_shapes import SHAPES

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Processor
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref
from dsvl_tune.data.formats.registry import FORMATS, read_row
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.validation.row_stats import RowInspector

VALUES: list[Any] = [
    None,
    5,
    -1,
    1.5,
    True,
    "",
    [],
    {},
    [None],
    {"a": 1},
    "<image>",
    ["x"],
    float("nan"),
    b"x",
    "\ud800",
]
KEYS = [
    "image",
    "images",
    "system",
    "kind",
    "history",
    "weight",
    "loss",
    "content",
    "messages",
    "from",
    "label",
    "answers",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a row."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutate(row: Any, chance: random.Random) -> Any:
    """The row with a value changed, taken away or added."""
    path, value = chance.choice(list(places(row))), copy.deepcopy(chance.choice(VALUES))
    if not path:
        return value
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    what = chance.random()
    if what < 0.6:
        inner[path[-1]] = value
    elif what < 0.8:
        del inner[path[-1]]
    elif isinstance(inner, dict):
        inner[chance.choice(KEYS)] = value
    return row


def test_rows(processor: Processor, tmp_path: Path) -> None:
    chance, inspect = random.Random(1), RowInspector(processor)
    read, errors = 0, list[str]()
    for _ in range(2000):
        row = mutate(copy.deepcopy(chance.choice(list(SHAPES.values()))[1]), chance)
        format: Any = chance.choice(["auto", *FORMATS])
        try:
            (stats,) = inspect([read_row(row, "rows:1", ImageSource(tmp_path), format)])
            read += not stats.error
            errors += [stats.error] if stats.error else []
        except UserError as error:
            errors.append(str(error))
    assert (
        read > 50 and len(errors) > 50 and all(message.startswith("rows:1") for message in errors)
    )


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
