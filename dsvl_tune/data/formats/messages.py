"""What the row formats are made of: fields that must be there, text with placeholders, messages to a Conversation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, cast

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.formats.image_refs import Home, image_ref

PLACEHOLDER = "<image>"
Part = str | ImageRef | None
"""Text, an image, or None for the next of the images that the row lists beside its text."""
Message = tuple[str, list[Part], float]
"""Role ("system", "user" or "assistant"), parts, loss weight."""
IMAGE_KEYS = ("image", "images")
"""Keys under which a row has its images."""
OTHER_KEYS = (
    "image_path",
    "image_paths",
    "image_file",
    "image_files",
    "image_url",
    "image_urls",
    "img",
    "img_path",
)
"""Keys under which other tools' rows have their images. A row that has them there alone would be supervised without."""
JSON_NAMES = {
    str: "text",
    list: "a list",
    dict: "an object",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


def take(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The value of a key that must be there, of the JSON type that it must have."""
    kinds = " or ".join(
        dict.fromkeys(JSON_NAMES[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
    )
    if not isinstance(mapping, dict) or key not in mapping:
        found = (
            ", ".join(map(repr, mapping)) if isinstance(mapping, dict) else type(mapping).__name__
        )
        raise UserError(
            f"{where}: no {key!r} there (found: {found or 'nothing'}). Expected {key!r}: {kinds}."
        )
    if not isinstance(mapping[key], kind):
        found = (
            "null" if mapping[key] is None else JSON_NAMES.get(type(mapping[key]), "another type")
        )
        raise UserError(f"{where}.{key}: {found}, expected {kinds}.")
    return mapping[key]


def take_weight(message: Mapping[str, Any], where: str) -> float:
    """A message's `weight`, or its `loss` as ms-swift writes it (true or false); 1 without either."""
    key = "weight" if message.get("weight") is not None else "loss"
    if message.get(key) is None:
        return 1.0
    weight = float(take(message, key, (int, float, bool), where))
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(
            f"{where}.{key}: {weight}, expected a number that is not negative; 0 leaves it unsupervised."
        )
    return weight


def known(name: str, names: Mapping[str, str], where: str) -> str:
    """What a name stands for; an unknown one is told with the nearest known one."""
    if name in names:
        return names[name]
    nearest = get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"{where}: unknown {name!r}, expected one of {', '.join(names)}.{hint}")


def split_text(text: str, placeholder: str = PLACEHOLDER) -> list[Part]:
    """The text with None for each of its placeholders."""
    first, *rest = text.split(placeholder)
    return [first, *(part for after in rest for part in (None, after))]


def filled(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Those of the keys that hold something; null, an empty list or text is nothing, as tables fill missing cells."""
    return [key for key in keys if row.get(key) not in (None, [], "")]


def begin(row: Mapping[str, Any], source: str) -> list[Message]:
    """The messages before a row's own: the system prompt that it has beside them, if any."""
    return (
        [] if row.get("system") is None else [("system", [take(row, "system", str, source)], 1.0)]
    )


def check_message(message: Any, where: str) -> None:
    """Raise if a message has images beside its text, which only the official DeepSeek-VL form has there."""
    for key in filled(message, IMAGE_KEYS) if isinstance(message, dict) else ():
        raise UserError(
            f"{where}.{key}: images in a message. Expected them beside the messages, as the row's 'images', and "
            f"one {PLACEHOLDER} in the text where each is shown."
        )


def build(
    row: Mapping[str, Any],
    messages: list[Message],
    source: str,
    home: Home,
    images_first: bool = False,
) -> Conversation:
    """The messages as a Conversation: the row's images in their places, the system message apart.

    With `images_first`, images of a row whose text has no placeholder come before its first question.
    """
    images = row_images(row, source, home)
    if not images and not any(
        isinstance(part, ImageRef) for _, parts, _ in messages for part in parts
    ):
        check_keys(row, OTHER_KEYS, source)
    places = any(part is None for _, parts, _ in messages for part in parts)
    if images_first and images and not places:
        question = next((parts for role, parts, _ in messages if role == "user"), [])
        question[:0] = [None] * len(images)
    fill_places(messages, images, source)
    system = None
    if messages and messages[0][0] == "system":
        parts = messages.pop(0)[1]
        if any(isinstance(part, ImageRef) for part in parts):
            raise UserError(
                f"{source}: an image in the system message. Move it to a user's message."
            )
        system = "".join(map(str, parts))
    if any(role == "system" for role, _, _ in messages):
        raise UserError(
            f"{source}: a system message after another message. Expected it first and once."
        )
    turns = tuple(
        Turn(
            cast(Literal["user", "assistant"], role),
            cast(tuple[str | ImageRef, ...], tuple(parts)),
            weight,
        )
        for role, parts, weight in messages
    )
    return Conversation(turns, source, system, question_type=take_question_type(row, source))


def row_images(row: Mapping[str, Any], source: str, home: Home) -> list[ImageRef]:
    """The images that the row lists beside its text: `images` or `image`, one or a list of them."""
    given = filled(row, IMAGE_KEYS)
    if len(given) > 1:
        raise UserError(f"{source}: both 'image' and 'images'. Keep the one that is meant.")
    if not given:
        return []
    listed = row[given[0]]
    references = listed if isinstance(listed, list) else [listed]
    return [image_ref(reference, home, f"{source}: {given[0]}") for reference in references]


def check_keys(row: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise if a row, or a part of a message, has images under one of the keys, which are not read."""
    for key in filled(row, keys):
        raise UserError(
            f"{where}: no image is read from {key!r}. Rename it to 'image', or remove it."
        )


def fill_places(messages: list[Message], images: list[ImageRef], source: str) -> None:
    """Put the row's images where the messages have None, in order."""
    places = [
        (parts, i) for _, parts, _ in messages for i, part in enumerate(parts) if part is None
    ]
    if len(places) != len(images):
        raise UserError(
            f"{source}: {len(places)} image placeholder(s) in the text, {len(images)} image(s) beside it. Expected as "
            f"many of one as of the other: write one {PLACEHOLDER} where each image is shown."
        )
    for (parts, i), image in zip(places, images, strict=True):
        parts[i] = image


def take_question_type(row: Mapping[str, Any], source: str) -> str:
    """The row's `question_type`, or `kind` as versions before 0.2 called it; "" without either."""
    key = "question_type" if row.get("question_type") is not None else "kind"
    question_type: str = take({key: "", **row}, key, str, source)
    return question_type
