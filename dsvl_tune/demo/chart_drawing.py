"""Drawing of charts. Every value axis runs from 0 to 100."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from dsvl_tune.demo.looks import Look
from dsvl_tune.demo.palette import Color, outline

Element = tuple[str, Color, int]
"""Name, color and value; names in a grouped chart begin with "left" or "right"."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom of the plot in px."""

GRID: Color = (215, 215, 215)
INK: Color = (90, 90, 90)


def draw_upright(rng: random.Random, elements: list[Element], look: Look) -> Image.Image:
    """Upright bars."""
    picture, draw, box = paper(rng, look)
    value_axis(draw, box, look, upright=True)
    bars(draw, box, look, elements, places(len(elements), box[0], box[2], look.share), upright=True)
    return picture


def draw_lying(rng: random.Random, elements: list[Element], look: Look) -> Image.Image:
    """Horizontal bars, read from the top down."""
    picture, draw, box = paper(rng, look)
    value_axis(draw, box, look, upright=False)
    bars(
        draw, box, look, elements, places(len(elements), box[1], box[3], look.share), upright=False
    )
    return picture


def draw_grouped(rng: random.Random, elements: list[Element], look: Look) -> Image.Image:
    """Two groups of upright bars that touch."""
    picture, draw, box = paper(rng, look)
    value_axis(draw, box, look, upright=True)
    half = len(elements) // 2
    middle = (box[0] + box[2]) // 2
    for group, (start, end) in (
        (elements[:half], (box[0], middle)),
        (elements[half:], (middle, box[2])),
    ):
        inset = (end - start) * 0.1
        bars(
            draw,
            box,
            look,
            group,
            places(half, round(start + inset), round(end - inset), 1.0),
            upright=True,
        )
    return picture


def draw_line(rng: random.Random, elements: list[Element], look: Look) -> Image.Image:
    """A line through colored points."""
    picture, draw, box = paper(rng, look)
    value_axis(draw, box, look, upright=True)
    points = [
        ((start + end) // 2, reach(value, box[3], box[1]))
        for (start, end), (_, _, value) in zip(
            places(len(elements), box[0], box[2], 1.0), elements, strict=True
        )
    ]
    draw.line(points, fill=INK, width=2)
    radius = rng.choice((4, 5))
    for (x, y), (_, color, _) in zip(points, elements, strict=True):
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=color, outline=outline(color)
        )
    return picture


def draw_pie(rng: random.Random, elements: list[Element], look: Look) -> Image.Image:
    """Slices, clockwise from twelve o'clock; their values add up to 100."""
    picture, draw, (left, top, right, bottom) = paper(rng, look)
    radius = min(right - left, bottom - top) // 2
    x, y = (left + right) // 2, (top + bottom) // 2
    edge = look.paper if look.outlined else None
    angle = -90.0
    for _, color, value in elements:
        draw.pieslice(
            (x - radius, y - radius, x + radius, y + radius),
            angle,
            angle + 3.6 * value,
            color,
            edge,
        )
        angle += 3.6 * value
    return picture


DRAWINGS: dict[str, Callable[[random.Random, list[Element], Look], Image.Image]] = {
    "upright": draw_upright,
    "lying": draw_lying,
    "grouped": draw_grouped,
    "line": draw_line,
    "pie": draw_pie,
}


def paper(rng: random.Random, look: Look) -> tuple[Image.Image, ImageDraw.ImageDraw, Box]:
    """An empty chart with its title, and the box of its plot."""
    width, height = look.size
    picture = Image.new("RGB", look.size, look.paper)
    draw = ImageDraw.Draw(picture)
    draw.text((width // 2, 1), look.title, font=look.font, fill=INK, anchor="ma")
    # What the margins must hold: an axis label and a line of text.
    label = math.ceil(look.font.getlength("100"))
    line = math.ceil(look.font.size)
    left, top = label + rng.randint(3, 6), line + rng.randint(4, 7)
    right, bottom = width - label // 2 - rng.randint(1, 4), height - line - rng.randint(4, 7)
    return picture, draw, (left, top, right, bottom)


def value_axis(draw: ImageDraw.ImageDraw, box: Box, look: Look, upright: bool) -> None:
    """Grid lines, the plot's frame and the labels 0, 50 and 100."""
    left, top, right, bottom = box
    for mark in range(0, 101, look.grid_step) if look.grid_step else (100,):
        draw.line(across(box, mark, upright), fill=GRID)
    draw.line((left, top, left, bottom, right, bottom), fill=INK)
    for mark in (0, 50, 100) if look.axis_labels else ():
        start_x, start_y, end_x, end_y = across(box, mark, upright)
        place, anchor = ((start_x - 2, start_y), "rm") if upright else ((end_x, end_y + 2), "ma")
        draw.text(place, str(mark), font=look.font, fill=INK, anchor=anchor)


def across(box: Box, mark: int, upright: bool) -> Box:
    """The grid line of a value."""
    left, top, right, bottom = box
    if upright:
        level = reach(mark, bottom, top)
        return left, level, right, level
    level = reach(mark, left, right)
    return level, top, level, bottom


def bars(
    draw: ImageDraw.ImageDraw,
    box: Box,
    look: Look,
    elements: list[Element],
    spans: list[tuple[int, int]],
    upright: bool,
) -> None:
    """One bar per span, from the axis to its value."""
    left, top, right, bottom = box
    for (start, end), (_, color, value) in zip(spans, elements, strict=True):
        edge = outline(color) if look.outlined else None
        if upright:
            draw.rectangle(
                (start, reach(value, bottom, top), end, bottom - 1), fill=color, outline=edge
            )
        else:
            draw.rectangle(
                (left + 1, start, reach(value, left, right), end), fill=color, outline=edge
            )


def places(amount: int, start: int, end: int, share: float) -> list[tuple[int, int]]:
    """Equal slots between two pixels, each filled around its middle to the same fraction."""
    pitch = (end - start) / amount
    margin = pitch * (1 - share) / 2
    return [
        (round(start + pitch * place + margin), round(start + pitch * (place + 1) - margin))
        for place in range(amount)
    ]


def reach(value: int, low: int, high: int) -> int:
    """The pixel of a value on an axis from `low` (0) to `high` (100)."""
    return round(low + (high - low) * value / 100)
