"""Generated charts with exact answers: the domain that the small recipes tune on."""

from __future__ import annotations

import itertools
import random
import zlib

from PIL import Image

from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.demo.chart_drawing import DRAWINGS
from dsvl_tune.demo.looks import HELD_OUT, TRAIN, draw_look
from dsvl_tune.demo.palette import COLORS, shade
from dsvl_tune.demo.questions import VALUES, Item, Wording, ask

NOUNS = {"upright": "bar", "lying": "bar", "grouped": "bar", "line": "point", "pie": "slice"}
HELD_OUT_SHARE = 4
"""One in this many sequences of values is held out for validation and test."""


def chart_row(
    seed: int,
    split: str,
    kinds: tuple[str, ...] = ("upright", "lying"),
    questions: int = 7,
    most: int = 6,
) -> list[Conversation]:
    """Conversations about one chart.

    Args:
        seed: which chart; a split and a seed always give the same row.
        split: validation and test charts have values and looks that no training chart has.
        kinds: kinds of chart to choose from: upright, lying and grouped bars, line, pie.
        questions: most conversations in the row. The seven question types take turns; training
            rows also ask for a list of all elements.
        most: most elements in the chart, at least 4.
    """
    name = f"charts/{split}/{seed}"
    rng = random.Random(name)
    kind = rng.choice(kinds)
    items = draw_items(rng, kind, most, held_out=split != "train")
    look = draw_look(rng, TRAIN if split == "train" else HELD_OUT)
    shades = {color: shade(rng, color) for color in COLORS}
    elements = [(item.name, shades[item.name.split()[-1]], item.value) for item in items]
    picture = ImageRef(DRAWINGS[kind](rng, elements, look), name)
    asked = wordings(NOUNS[kind])
    if split == "train":
        # A long answer, trained on and never scored.
        asked += (Wording("listing", "list", f"List all {NOUNS[kind]}s."),)
    return [
        Conversation(
            turns=(Turn("user", (picture, question)), Turn("assistant", (answer,))),
            source=name,
            question_type=type_,
        )
        for type_, question, answer in ask(rng, items, asked, questions)
    ]


def example_chart() -> Image.Image:
    """The held-out chart of the documentation; its red bar is at 50."""
    picture = chart_row(1008, "test", kinds=("upright",))[0].images[0].content
    assert isinstance(picture, Image.Image)
    return picture


def draw_items(rng: random.Random, kind: str, most: int, held_out: bool) -> list[Item]:
    """The elements of a chart, in reading order, with values of the wanted split."""
    while True:
        names = draw_names(rng, kind, most)
        if kind == "pie":
            cuts = [0, *sorted(rng.sample(VALUES, len(names) - 1)), 100]
            values = [end - start for start, end in itertools.pairwise(cuts)]
        else:
            values = rng.sample(VALUES, len(names))
        if (zlib.crc32(repr(values).encode()) % HELD_OUT_SHARE == 0) == held_out:
            return [Item(name, value) for name, value in zip(names, values, strict=True)]


def draw_names(rng: random.Random, kind: str, most: int) -> list[str]:
    """Two to `most` colors; a grouped chart has the same two or three on the left and right."""
    if kind != "grouped":
        return rng.sample(sorted(COLORS), rng.randint(2, most))
    colors = rng.sample(sorted(COLORS), rng.randint(2, most // 2))
    return [f"{side} {color}" for side in ("left", "right") for color in colors]


def wordings(noun: str) -> tuple[Wording, ...]:
    """The question types of a chart whose elements are called `noun`."""
    return (
        Wording("value", "value", f"What is the value of the {{a}} {noun}?"),
        Wording("count", "count", f"What is the number of {noun}s?"),
        # "colour" is a word of the embedded model's training data: spelled so, it is understood.
        Wording("largest", "largest", f"What is the colour of the largest {noun}?"),
        Wording("smallest", "smallest", f"What is the colour of the smallest {noun}?"),
        Wording("compare", "compare", f"Is the {{a}} {noun} larger than the {{b}} {noun}?"),
        Wording("first", "order", f"What is the colour of the first {noun}?"),
        Wording("last", "order", f"What is the colour of the last {noun}?"),
        Wording("over", "over", f"Is the value of the {{a}} {noun} over {{t}}?"),
    )
