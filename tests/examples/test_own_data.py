"""The example set: it is what its README says, its script draws it, and it can be trained on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.demo.charts import chart_row, example_chart

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_data"
EXIF_ORIENTATION = 0x0112


def test_pictures_are_of_every_kind() -> None:
    pictures = [Image.open(path) for path in (EXAMPLE / "images").iterdir()]
    assert {(picture.format, picture.mode) for picture in pictures} == {
        *(("JPEG", mode) for mode in ("RGB", "L")),
        *(("PNG", mode) for mode in ("L", "RGBA", "P")),
    }
    assert len({picture.size for picture in pictures}) == len(pictures)
    assert [
        Path(p.filename).name for p in pictures if p.getexif().get(EXIF_ORIENTATION, 1) != 1
    ] == ["shelf.jpg"]
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < 400_000


def test_the_script_draws_these_pictures(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make", EXAMPLE / "make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.HERE = tmp_path
    make.main()
    drawn = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert drawn == sorted(path.name for path in (EXAMPLE / "images").iterdir())
    for name in drawn:
        pixels = [
            np.asarray(Image.open(root / "images" / name).convert("RGB"), float)
            for root in (tmp_path, EXAMPLE)
        ]
        assert np.abs(pixels[0] - pixels[1]).mean() < 1, name


@pytest.mark.parametrize("file", ["train.jsonl", "train_llava.json"])
def test_it_is_read_and_batched(file: str, checkpoint: Path) -> None:
    data = InstructDataModule(
        str(EXAMPLE / file),
        test=str(EXAMPLE / "test.jsonl"),
        checkpoint=str(checkpoint),
        validation_rows=0,
    )
    data.setup("fit")
    conversations = [conversation for row in data.rows("train") for conversation in row]
    assert {len(conversation.images) for conversation in conversations} == {0, 1, 2}
    assert {len(conversation.turns) > 2 for conversation in conversations} == {True, False}
    assert any(conversation.system for conversation in conversations)
    batches: list[Batch] = list(data.train_dataloader())
    assert sum(len(batch.sources) for batch in batches) == len(conversations)
    assert all((batch.labels != IGNORE_INDEX).any() for batch in batches)
    assert len(data.rows("test")) == 2


def test_the_example_chart_is_a_held_out_one() -> None:
    drawn = chart_row(1008, "test", kinds=("upright",))[0].images[0].content
    assert isinstance(drawn, Image.Image)
    assert example_chart().tobytes() == drawn.tobytes()
    assert Image.open(EXAMPLE.parent / "chart.png").tobytes() == drawn.tobytes()
