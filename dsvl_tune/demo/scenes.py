"""Laboratory pictures: colored liquids, rods and floats against a scale, with exact answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.demo.palette import COLORS, JITTER, Color, outline, shade
from dsvl_tune.demo.questions import VALUES, Item, Wording, ask

WORDS = {
    str(number): word for number, word in enumerate(("two", "three", "four", "five", "six"), 2)
}
QUESTIONS = (
    Wording("value", "read", "Read {a}."),
    Wording("holder", "find", "Which reads {v}?"),
    Wording("count", "tally", "How many are there?", WORDS),
    Wording("largest", "furthest", "Which goes furthest?"),
    Wording("smallest", "least", "Which goes least far?"),
    Wording("larger_of", "pick", "Which goes further, {a} or {b}?"),
    Wording(
        "compare", "relation", "Is {a} ahead of or behind {b}?", {"yes": "ahead", "no": "behind"}
    ),
    Wording("over", "limit", "Is {a} past or short of {t}?", {"yes": "past", "no": "short"}),
    Wording("first", "end", "Which stands at the near end?"),
    Wording("last", "end", "Which stands at the far end?"),
    Wording("after", "neighbor", "Which follows {a}?"),
    Wording("before", "neighbor", "Which precedes {a}?"),
)
DESCRIPTIONS = (
    Wording("listing", "list", "List all."),
    Wording("readout", "readout", "Read {a}."),
    Wording("ranking", "rank", "Rank all."),
)
TRAINING_QUESTIONS = QUESTIONS + DESCRIPTIONS
"""Descriptions are long answers that teach reading in order; trained on and never scored."""


def training_wordings(types: tuple[str, ...] | None) -> tuple[Wording, ...]:
    """The training questions of some question types; None is all."""
    return tuple(
        wording for wording in TRAINING_QUESTIONS if types is None or wording.question_type in types
    )


@dataclass(frozen=True)
class Stage:
    """Where a scene is drawn.

    Attributes:
        draw: of the picture.
        low: pixel of 0 on the scale.
        high: pixel of 100 on the scale.
        span: pixels that the items are spread over.
        ink: color of the instruments.
    """

    draw: ImageDraw.ImageDraw
    low: int
    high: int
    span: tuple[int, int]
    ink: Color

    def reach(self, value: int) -> int:
        """The pixel of a value on the scale."""
        return round(self.low + (self.high - self.low) * value / 100)


def scene_row(
    seed: int,
    split: str,
    kinds: tuple[str, ...] = ("tubes", "rods", "floats"),
    questions: int = 10,
    most: int = 6,
    cells: bool = False,
    types: tuple[str, ...] | None = None,
) -> list[Conversation]:
    """Conversations about one laboratory picture.

    Args:
        seed: which picture; a split and a seed always give the same row.
        split: train, validation or test; the splits share no seed.
        kinds: kinds of scene to choose from, keys of `SCENES`.
        questions: most conversations in the row.
        most: most elements in the picture.
        cells: whether to add four conversations with an answer token for each of 8 x 8 cells: the
            color at its middle, the tens of the value of the element there, and twice the latter
            for a single named element. That is a label for every visual token, from which untrained
            towers learn colors, places and lengths fastest.
        types: question types of `TRAINING_QUESTIONS` to ask in training; None asks all.
    """
    rng = random.Random(f"scenes/{split}/{seed}")
    kind = rng.choice(kinds)
    amount = rng.randint(2, most)
    names, values = rng.sample(sorted(COLORS), amount), rng.sample(VALUES, amount)
    items = [Item(name, value) for name, value in zip(names, values, strict=True)]
    name = f"scenes/{split}/{seed}"
    drawn = SCENES[kind](rng, items)
    picture = ImageRef(drawn, name)
    wordings = training_wordings(types) if split == "train" else QUESTIONS
    asked = ask(rng, items, wordings, questions)
    if cells:
        asked += cell_questions(rng, drawn, items)
    return [
        Conversation(
            turns=(Turn("user", (picture, question)), Turn("assistant", (answer,))),
            source=name,
            question_type=f"scene {type_}",
        )
        for type_, question, answer in asked
    ]


def cell_questions(
    rng: random.Random, picture: Image.Image, items: list[Item]
) -> list[tuple[str, str, str]]:
    """(question type, question, answer) for the colors and values in the cells of a picture."""
    colors = cell_colors(picture)
    tens = {item.name: str(item.value // 10) for item in items}
    asked = [
        ("cells", "Name the cells.", " ".join(colors)),
        ("cells", "Read the cells.", "".join(tens.get(color, "0") for color in colors)),
    ]
    for item in rng.sample(items, 2):
        only = "".join(tens[color] if color == item.name else "0" for color in colors)
        asked.append(("cells", f"Read the cells of {item.name}.", only))
    return asked


def cell_colors(picture: Image.Image, cells: int = 8) -> list[str]:
    """The color name, or "none", at the middle of each cell of the padded square, row by row."""
    width, height = picture.size
    side = max(width, height)
    middles = [round((cell + 0.5) * side / cells) for cell in range(cells)]
    pixels = picture.tobytes()
    names = []
    for y in (middle - (side - height) // 2 for middle in middles):
        for x in (middle - (side - width) // 2 for middle in middles):
            if 0 <= x < width and 0 <= y < height:
                start = 3 * (y * width + x)
                names.append(color_name((pixels[start], pixels[start + 1], pixels[start + 2])))
            else:
                names.append("none")
    return names


def color_name(pixel: Color) -> str:
    """The named color that a pixel shows, or "none"."""
    for name, color in COLORS.items():
        if max(abs(seen - exact) for seen, exact in zip(pixel, color, strict=True)) <= JITTER:
            return name
    return "none"


def tubes(rng: random.Random, items: list[Item]) -> Image.Image:
    """Upright glass tubes filled to a level, the scale on the left."""
    picture, stage = upright_stage(rng)
    for item, (left, right) in zip(items, slots(rng, stage.span, len(items)), strict=True):
        color = shade(rng, item.name)
        level = stage.reach(item.value)
        stage.draw.rectangle((left, level, right, stage.low), fill=color)
        stage.draw.line(
            (left, stage.high, left, stage.low, right, stage.low, right, stage.high), fill=stage.ink
        )
        stage.draw.ellipse((left, level - 2, right, level + 2), fill=outline(color))
    return picture


def floats(rng: random.Random, items: list[Item]) -> Image.Image:
    """Round floats on upright wires, the scale on the left."""
    picture, stage = upright_stage(rng)
    for item, (left, right) in zip(items, slots(rng, stage.span, len(items)), strict=True):
        color = shade(rng, item.name)
        middle, level, radius = (
            (left + right) // 2,
            stage.reach(item.value),
            min(7, (right - left) // 2),
        )
        stage.draw.line((middle, stage.high, middle, stage.low), fill=stage.ink)
        stage.draw.ellipse(
            (middle - radius, level - radius, middle + radius, level + radius),
            fill=color,
            outline=outline(color),
        )
    return picture


def rods(rng: random.Random, items: list[Item]) -> Image.Image:
    """Horizontal rods against a stop on the left, the scale at the bottom; read top down."""
    width, height = rng.randint(120, 150), rng.randint(110, 150)
    picture, ink = bench(rng, width, height)
    draw = ImageDraw.Draw(picture)
    foot = height - rng.randint(12, 18)
    stage = Stage(
        draw, rng.randint(9, 13), width - rng.randint(7, 11), (rng.randint(4, 10), foot - 3), ink
    )
    draw.line((stage.low, foot, stage.high, foot), fill=ink)
    for mark in range(0, 101, 10):
        draw.line(
            (stage.reach(mark), foot, stage.reach(mark), foot + (6 if mark % 50 == 0 else 3)),
            fill=ink,
        )
    draw.line((stage.low, stage.span[0], stage.low, foot), fill=ink, width=2)
    for item, (top, bottom) in zip(items, slots(rng, stage.span, len(items)), strict=True):
        color = shade(rng, item.name)
        draw.rounded_rectangle((stage.low + 1, top, stage.reach(item.value), bottom), 3, fill=color)
        draw.line((stage.low + 1, bottom, stage.reach(item.value) - 3, bottom), fill=outline(color))
    return picture


SCENES: dict[str, Callable[[random.Random, list[Item]], Image.Image]] = {
    "tubes": tubes,
    "rods": rods,
    "floats": floats,
}


def bench(rng: random.Random, width: int, height: int) -> tuple[Image.Image, Color]:
    """An empty picture in a light tint, and the color of its instruments."""
    tint = rng.randint(205, 240), rng.randint(205, 240), rng.randint(205, 240)
    gray = rng.randint(80, 130)
    return Image.new("RGB", (width, height), tint), (gray, gray, gray)


def upright_stage(rng: random.Random) -> tuple[Image.Image, Stage]:
    """A picture with a graduated scale on the left and the bench's edge at the bottom."""
    width, height = rng.randint(110, 150), rng.randint(120, 150)
    picture, ink = bench(rng, width, height)
    draw = ImageDraw.Draw(picture)
    foot = rng.randint(12, 18)
    stage = Stage(
        draw,
        height - rng.randint(9, 13),
        rng.randint(7, 11),
        (foot + 3, width - rng.randint(4, 10)),
        ink,
    )
    draw.line((foot, stage.high, foot, stage.low), fill=ink)
    for mark in range(0, 101, 10):
        draw.line(
            (foot - (6 if mark % 50 == 0 else 3), stage.reach(mark), foot, stage.reach(mark)),
            fill=ink,
        )
    draw.line((foot, stage.low, width, stage.low), fill=ink, width=2)
    return picture, stage


def slots(rng: random.Random, span: tuple[int, int], amount: int) -> list[tuple[int, int]]:
    """Equal slots in a span, each filled around its middle to the same random fraction."""
    pitch = (span[1] - span[0]) / amount
    share = rng.uniform(0.45, 0.8)
    thickness = min(pitch * share, 24)
    starts = [span[0] + pitch * (place + 0.5) - thickness / 2 for place in range(amount)]
    return [(round(start), round(start + thickness)) for start in starts]
