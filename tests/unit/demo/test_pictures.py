from __future__ import annotations

import hashlib
import time

import pytest
from PIL import Image

from dsvl_tune.core.types import Conversation
from dsvl_tune.demo import looks
from dsvl_tune.demo.chart_drawing import DRAWINGS
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.demo.palette import COLORS
from dsvl_tune.demo.scenes import SCENES, cell_colors, color_name, scene_row


def picture_of(row: list[Conversation]) -> Image.Image:
    source = row[0].images[0].content
    assert isinstance(source, Image.Image)
    return source


def digest(row: list[Conversation]) -> str:
    return hashlib.sha256(picture_of(row).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("kind", sorted(DRAWINGS))
def test_a_seed_always_gives_the_same_row(kind: str) -> None:
    one, two = (chart_row(7, "train", kinds=(kind,)) for _ in range(2))
    assert picture_of(one).tobytes() == picture_of(two).tobytes()
    assert [c.turns[1] for c in one] == [c.turns[1] for c in two]
    assert digest(one) != digest(chart_row(8, "train", kinds=(kind,)))


PIXELS = {
    "grouped": "ac3e6c530efad87e",
    "line": "3a4bf46ac0f82bdb",
    "lying": "ee519faf0ce9c4ec",
    "pie": "a76fc465ea35be16",
    "upright": "4f4f741b85c6de39",
    "floats": "1a1fcfb707256987",
    "rods": "7818951425d1f2f8",
    "tubes": "2197a477e5d5c908",
}


@pytest.mark.parametrize("kind", sorted(PIXELS))
def test_the_pixels_are_the_same_on_every_machine(kind: str) -> None:
    """Equal under Python 3.10 with Pillow 12.3 and Python 3.11 with Pillow 13.

    Another drawing needs new figures everywhere: the embedded model's, the recipe's and the
    README's.
    """
    row = (
        chart_row(7, "train", kinds=(kind,))
        if kind in DRAWINGS
        else scene_row(7, "train", kinds=(kind,))
    )
    assert digest(row) == PIXELS[kind]


def test_no_held_out_picture_is_a_training_picture() -> None:
    splits = ("train", "validation", "test")
    pictures = {split: {digest(chart_row(seed, split)) for seed in range(300)} for split in splits}
    assert not pictures["train"] & (pictures["validation"] | pictures["test"])
    assert not pictures["validation"] & pictures["test"]


def test_held_out_looks_are_not_training_looks() -> None:
    train, held_out = looks.TRAIN, looks.HELD_OUT
    assert train.font != held_out.font
    for field in ("sizes", "first_words", "second_words"):
        assert not set(getattr(train, field)) & set(getattr(held_out, field)), field


def test_bar_lengths_are_the_answers() -> None:
    """A bar's share of its axis, read from the pixels by its color, is the answer's value."""
    checked = 0
    for seed in range(20):
        row = chart_row(seed, "test", kinds=("lying",), questions=30)
        picture = picture_of(row)
        said = [
            (str(c.turns[0].parts[-1]), str(c.turns[1].parts[0]))
            for c in row
            if c.question_type == "value"
        ]
        answers = {question.split()[6]: int(answer) for question, answer in said}
        lengths: dict[str, int] = {}
        for y in range(picture.height):
            for name in answers:
                run = sum(
                    color_name(picture.getpixel((x, y))) == name for x in range(picture.width)
                )
                lengths[name] = max(lengths.get(name, 0), run)
        for one in answers:
            for other in answers:
                if answers[one] > answers[other]:
                    assert lengths[one] > lengths[other], (seed, one, other)
                    checked += 1
    assert checked > 20


def test_cells_name_what_is_in_the_picture() -> None:
    picture = Image.new("RGB", (64, 32), "white")  # centerd in a square: rows 2 to 5 of 8
    picture.paste(COLORS["red"], (0, 0, 32, 16))
    cells = cell_colors(picture)
    expected = ["none"] * 64
    for row in (2, 3):
        expected[row * 8 : row * 8 + 4] = ["red"] * 4
    assert cells == expected


@pytest.mark.parametrize("kind", sorted(SCENES))
def test_scenes_show_every_color_they_ask_about(kind: str) -> None:
    row = scene_row(3, "train", kinds=(kind,), questions=40)
    picture = picture_of(row)
    shown = {color_name(pixel) for _, pixel in picture.getcolors(maxcolors=1 << 16) or []}
    asked = {str(c.turns[1].parts[0]) for c in row} & set(COLORS)
    assert asked and asked <= shown


def test_drawing_is_fast_enough_for_loader_workers() -> None:
    start = time.process_time()
    for seed in range(100):
        chart_row(seed, "train", kinds=tuple(DRAWINGS))
    assert time.process_time() - start < 1.0  # 10 ms each; about 0.5 on a free core
