"""What charts look like.

Held-out charts have sizes, titles, a font and background colors that no training chart has.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

from dsvl_tune.demo.palette import Color

FONTS = Path(__file__).parent / "fonts"


@dataclass(frozen=True)
class Looks:
    """What the charts of a split choose from.

    Attributes:
        sizes: width and height in px.
        font: file name in `fonts/`.
        first_words: of titles.
        second_words: of titles.
        papers: background colors.
    """

    sizes: tuple[tuple[int, int], ...]
    font: str
    first_words: tuple[str, ...]
    second_words: tuple[str, ...]
    papers: tuple[Color, ...]


TRAIN = Looks(
    sizes=(
        (128, 128),
        (140, 120),
        (150, 130),
        (160, 124),
        (120, 140),
        (144, 144),
        (156, 140),
        (128, 116),
    ),
    font="DejaVuSans.ttf",
    first_words=("Sales", "Output", "Visits", "Orders", "Rainfall", "Energy", "Budget", "Stock"),
    second_words=(
        "by colour",  # as in the images that the embedded model was trained on
        "per team",
        "2019",
        "2021",
        "in percent",
        "last week",
        "north",
        "total",
    ),
    papers=((255, 255, 255), (255, 255, 255), (250, 248, 240), (242, 246, 250), (245, 245, 245)),
)
HELD_OUT = Looks(
    sizes=((134, 134), (146, 126), (152, 124), (126, 138), (150, 142), (164, 134)),
    font="DejaVuSerif.ttf",
    first_words=("Exports", "Members", "Noise", "Traffic", "Yield", "Scores"),
    second_words=("per group", "2020", "2022", "this month", "south", "overall"),
    papers=((255, 255, 255), (252, 252, 246), (244, 250, 246), (248, 244, 250)),
)


@functools.cache
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A shipped font; the basic layout engine draws the same pixels on every machine."""
    return ImageFont.truetype(str(FONTS / name), size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Look:
    """What one chart looks like.

    Attributes:
        size: width and height in px.
        paper: background color.
        title: "" for none.
        font: of all text.
        grid_step: distance of grid lines on the value axis; 0 for no grid.
        axis_labels: whether the value axis has labels.
        outlined: whether shapes have an edge.
        share: fraction of its slot that a bar fills, 0..1.
    """

    size: tuple[int, int]
    paper: Color
    title: str
    font: ImageFont.FreeTypeFont
    grid_step: int
    axis_labels: bool
    outlined: bool
    share: float


def draw_look(rng: random.Random, looks: Looks) -> Look:
    """Draw a look from those of a split."""
    title = f"{rng.choice(looks.first_words)} {rng.choice(looks.second_words)}"
    return Look(
        size=rng.choice(looks.sizes),
        paper=rng.choice(looks.papers),
        title=title if rng.random() < 0.7 else "",
        font=load_font(looks.font, rng.choice((9, 10, 11))),
        grid_step=rng.choice((0, 10, 20, 20)),
        axis_labels=rng.random() < 0.6,
        outlined=rng.random() < 0.4,
        share=rng.uniform(0.5, 0.9),
    )
