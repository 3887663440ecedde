"""ms-swift's `objects`: names and boxes that texts point to by `<ref-object>` and `<bbox>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.messages import required, row_images
from dsvl_tune.data.formats.tags import escape_tags
from dsvl_tune.data.formats.values import shown
from dsvl_tune.data.images.load import image_size

GRID = 999
"""Boxes are written in thousandths of the picture's width and height, 0..999, as ms-swift writes
them by default and DeepSeek-VL2 does (its README, "visual grounding")."""
TEXT_KEYS = ("messages", "conversations", "history", "query", "response", "question", "answer")
"""Where the texts of a row are, in reading order."""
MAX_COORDINATE = 1e9
"""Larger numbers are no px; of JSON's, some cannot even be divided."""
MAX_DEPTH = 6
"""Lists and objects around a text: messages, a message, its content, a part."""
BOX_TYPES = ("real", "norm1")
MARK = re.compile(r"(?<!\\)<(ref-object|bbox)>")


def with_objects(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Mapping[str, Any]:
    """The row with its objects' names and boxes in its texts.

    Args:
        row: `objects` has `ref`, names; `bbox`, boxes of two or four numbers in px; `bbox_type`,
            "real" (the default) or "norm1" for shares of width and height; and `image_id`, the
            number of the image of each box, from 0, where there are several.
        source: file and row, for errors.
        allowed: where images may come from; the header of a box's image is read.

    Raises:
        UserError: another number of marks in the texts than of names or boxes, or a bad box.
    """
    objects = row.get("objects")
    if not isinstance(objects, Mapping) or not (objects.get("ref") or objects.get("bbox")):
        return row
    where = f"{source}: objects"
    refs = required({"ref": [], **drop_null(objects)}, "ref", list, where)
    texts = {"ref-object": iter(names(refs, where)), "bbox": boxes(row, objects, source, allowed)}
    counts = {"ref-object": len(refs), "bbox": len(objects.get("bbox") or [])}
    marks: list[str] = []

    def replace(mark: re.Match[str]) -> str:
        marks.append(mark[1])
        text = next(texts[mark[1]], None)
        if text is None:
            raise UserError(
                f"{where}: more <{mark[1]}> in the texts than the {counts[mark[1]]} listed."
            )
        return text

    filled = {key: in_texts(row[key], replace) for key in TEXT_KEYS if key in row}
    for mark, count in counts.items():
        if marks.count(mark) != count and not (mark == "ref-object" and not marks.count(mark)):
            raise UserError(
                f"{where}: {marks.count(mark)} <{mark}> in the texts, but {count} are listed. "
                "Write one where each is meant."
            )
    return {**row, **filled}


def drop_null(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping without keys that are null, as tables have them."""
    return {key: value for key, value in mapping.items() if value is not None}


def names(refs: Sequence[Any], where: str) -> list[str]:
    """The names of objects; no tag is read in them."""
    if not all(isinstance(name, str) for name in refs):
        raise UserError(f"{where}.ref: expected a list of texts.")
    return [escape_tags(name) for name in refs]


def boxes(
    row: Mapping[str, Any], objects: Mapping[str, Any], source: str, allowed: ImageSource
) -> Iterator[str]:
    """The text of each box, e.g. "[12, 30, 400, 500]"."""
    where = f"{source}: objects"
    given = drop_null(objects)
    listed = required({"bbox": [], **given}, "bbox", list, where)
    box_type = given.get("bbox_type", "real")
    if box_type not in BOX_TYPES:
        raise UserError(f"{where}.bbox_type: {shown(box_type)}, expected one of {BOX_TYPES}.")
    numbers = given.get("image_id") or [0] * len(listed)
    images = row_images(row, source, allowed) if listed else []
    for place, box in enumerate(listed):
        at = f"{where}.bbox[{place}]"
        check_box(box, at)
        size: tuple[float, float] = (1, 1)
        if box_type == "real":
            size = image_size(image_of_box(numbers, images, place, at), source)
        yield in_thousandths(box, size, at)


def check_box(box: Any, at: str) -> None:
    """Raise unless a box is two or four numbers."""
    is_box = isinstance(box, list) and len(box) in (2, 4)
    if not is_box or not all(map(is_coordinate, box)):
        raise UserError(f"{at}: {shown(box)}, expected two or four numbers.")


def image_of_box(numbers: Any, images: Sequence[ImageRef], place: int, at: str) -> ImageRef:
    """The image that a box is drawn on, by the number that `image_id` has for it."""
    number = numbers[place] if isinstance(numbers, list) and place < len(numbers) else None
    if not isinstance(number, int) or not 0 <= number < len(images):
        raise UserError(
            f"{at}: its image is not among the {len(images)} that the row lists under 'images'."
        )
    return images[number]


def in_thousandths(box: Sequence[float], size: tuple[float, float], at: str) -> str:
    """A box as text.

    Args:
        box: x, y, and again x, y of the opposite corner where there are four.
        size: (width, height) of its image, in the unit of the box.
        at: the box in its file, for the message.
    """
    scaled = [value / size[index % 2] for index, value in enumerate(box)]
    if max(scaled) > 1:
        raise UserError(f"{at}: {box}, outside its image of {size[0]} x {size[1]}.")
    return f"[{', '.join(str(round(GRID * value)) for value in scaled)}]"


def is_coordinate(value: Any) -> bool:
    """Whether a value is a number that a coordinate may be."""
    return type(value) in (int, float) and 0 <= value <= MAX_COORDINATE


def in_texts(value: Any, replace: Callable[[re.Match[str]], str], depth: int = 0) -> Any:
    """The value with the marks in its texts replaced, in reading order."""
    if isinstance(value, str):
        return MARK.sub(replace, value)
    if depth == MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [in_texts(one, replace, depth + 1) for one in value]
    if isinstance(value, dict):
        return {key: in_texts(one, replace, depth + 1) for key, one in value.items()}
    return value
