"""How many tiles and tokens an image takes, who says so, and how to have fewer."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_deepseek_vl2 import build_deepseek_vl2

from dsvl_tune.cli.data_report import check_data, details
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.tokenize import encode, tokenize
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl2.layout import join_tiles, visual_tokens
from dsvl_tune.families.deepseek_vl2.pixels import ImageSettings, choose_grid
from dsvl_tune.report.data_preview import preview_page

GOLDEN = Path(__file__).parents[2] / "golden" / "deepseek_vl2"
TOKENS = {(1, 1): 421, (2, 1): 617, (1, 2): 631, (2, 2): 1023, (3, 2): 1415, (2, 3): 1429}
TOKENS |= {(3, 3): 2017, (9, 1): 1989, (1, 9): 2101}
CHOICES = {
    **{(384, 384): (1, 1), (500, 333): (2, 1), (640, 480): (2, 2), (1024, 768): (3, 2)},
    **{(1280, 720): (4, 2), (1920, 1080): (4, 2), (1080, 1920): (2, 4), (3024, 4032): (3, 3)},
    (4000, 300): (9, 1),
}


@pytest.fixture(scope="module")
def processor() -> Processor:
    return open_checkpoint(GOLDEN / "tiny" / "checkpoint").processor


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_deepseek_vl2(tmp_path_factory.mktemp("vl2_tiles"), "tiny")


def test_token_counts_of_the_paper(processor: Processor) -> None:
    assert {grid: visual_tokens(grid, 14) for grid in TOKENS} == TOKENS
    counts = [visual_tokens(grid, 14) for grid in processor.image_settings.grids]
    assert len(set(counts)) == len(counts) == 23 and max(counts) == 2101


@pytest.mark.parametrize("size", CHOICES, ids=str)
def test_choice_of_the_grid(size: tuple[int, int], processor: Processor) -> None:
    settings = processor.image_settings
    assert choose_grid(size, settings, 2) == CHOICES[size]
    assert choose_grid(size, settings, 3) == (1, 1)


def slow_choice(size: tuple[int, int], settings: ImageSettings) -> tuple[int, int]:
    """The rule as its description has it, candidate after candidate."""
    best, found = (-1, 0), (0, 0)
    for width, height in settings.candidates:
        scale = min(width / size[0], height / size[1])
        fitted = int(size[0] * scale) * int(size[1] * scale)
        effective = min(fitted, size[0] * size[1])
        waste = width * height - effective
        if effective > best[0] or (effective == best[0] and waste < best[1]):
            best, found = (effective, waste), (width // settings.tile, height // settings.tile)
    return found


def test_random_sizes(processor: Processor) -> None:
    draw = random.Random(3)
    for _ in range(2000):
        size = draw.randint(1, 4000), draw.randint(1, 4000)
        settings = processor.image_settings
        assert choose_grid(size, settings, 1) == slow_choice(size, settings)


def test_tiles_are_joined_to_one_view() -> None:
    """Every pixel row of the picture is contiguous over its tiles, then comes a newline."""
    side, (wide, high) = 2, (3, 2)
    large = torch.arange(high * side * wide * side).view(high * side, wide * side)
    tiles = [
        large[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row, column in itertools.product(range(high), range(wide))
    ]
    whole = torch.full((side, side), -3)
    views = torch.stack([whole, *tiles])[..., None].float()
    newline, separator = torch.tensor([-1.0]), torch.tensor([-2.0])
    found = join_tiles(views, (wide, high), newline, separator).flatten().tolist()
    expected = [*[-3, -3, -1] * side, -2]
    for row in large.tolist():
        expected += [*row, -1]
    assert found == expected


def ask(*sizes: tuple[int, int]) -> Conversation:
    images = [ImageRef(Image.new("RGB", size), f"{n} {size}") for n, size in enumerate(sizes)]
    turns = (Turn("user", (*images, "What?")), Turn("assistant", ("This.",)))
    return Conversation(turns, "row 1")


def test_a_row_that_is_too_long_names_each_image(processor: Processor) -> None:
    with pytest.raises(UserError) as error:
        tokenize(ask((640, 480), (384, 384)), processor, max_tokens=1000)
    assert "image 1: 1023 tokens, 2 x 2 tiles; image 2: 421 tokens, not cut" in str(error.value)
    assert "lower max_tiles" in str(error.value)


def test_fewer_tiles(small: Path) -> None:
    data = InstructDataModule(train="x.jsonl", checkpoint=str(small), max_tiles=2)
    limited = data.read_processor()
    sample = encode(ask((400, 400)), limited)
    assert sample.images[0].tensors["pixel_values"].shape[0] == 1
    full = open_checkpoint(small).processor
    assert encode(ask((400, 400)), full).images[0].tensors["pixel_values"].shape[0] == 5
    assert limited.family.image_digest(limited) != full.family.image_digest(full)
    data = InstructDataModule(train="x.jsonl", checkpoint=str(small), max_tiles=0)
    with pytest.raises(UserError, match=r"data.max_tiles: 0, but this checkpoint cuts no image"):
        data.read_processor()


def test_no_tiles_to_limit(hybrid_checkpoint: Path) -> None:
    data = InstructDataModule(train="x.jsonl", checkpoint=str(hybrid_checkpoint), max_tiles=2)
    with pytest.raises(UserError, match="DeepSeek-VL does not cut images into tiles"):
        data.read_processor()


def test_check_data_and_preview_show_tiles(small: Path, tmp_path: Path) -> None:
    import json

    for name, size in {"square": (300, 300), "strip": (300, 90), "dot": (30, 30)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    rows = [
        {
            "image": f"{name}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "This."},
            ],
        }
        for name in ("square", "strip", "dot", "strip")
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = InstructDataModule(train=str(tmp_path / "train.jsonl"), checkpoint=str(small))
    reports, _ = check_data(data)
    text = details("train", reports["train"])
    assert "an image takes: 43 tokens, 3 x 1 tiles in 2;" in text
    assert "55 tokens, 2 x 2 tiles in 1" in text and "25 tokens, not cut in 1" in text
    sample = encode(ask((300, 300)), data.read_processor())
    assert "image 1: 55 tokens, 2 x 2 tiles" in preview_page(
        [sample], data.read_processor(), "rows"
    )
