"""What the row formats share: required fields, placeholders, and messages to a Conversation.

A format turns its row into `Message`s, whose text may have placeholders (None) for the images
that the row lists, and `to_conversation` makes a `Conversation` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref, is_media_file
from dsvl_tune.data.formats.tags import PLACEHOLDER, ContentPart, text_parts
from dsvl_tune.data.formats.unread import promised_media
from dsvl_tune.data.formats.values import key_names, shown

IMAGE_KEYS = ("image", "images")
"""Keys under which a row lists its images."""

MESSAGE_KEYS = ("role", "from", "content", "value", "weight", "loss")
"""Keys of a message that are read."""

MAX_WEIGHT = 1_000_000
"""Largest loss weight of a message."""

JSON_NAMES = {
    str: "text",
    list: "a list",
    dict: "an object",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


class UnmatchedImages(UserError):
    """A row lists other images than its text has places for."""


class Message(NamedTuple):
    """One message of a row.

    Attributes:
        role: who speaks.
        parts: content in reading order.
        weight: loss weight of its tokens, if it is the assistant's.
    """

    role: Literal["system", "user", "assistant"]
    parts: list[ContentPart]
    weight: float = 1.0


# Fields


def required(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The value of a key that must be there.

    Args:
        mapping: a row, or a message of one.
        key: of the value.
        kind: JSON type or types that the value may have.
        where: file, row and field of the mapping, for the error.

    Raises:
        UserError: no such key, or a value of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(dict.fromkeys(JSON_NAMES[one] for one in kinds))
    if not isinstance(mapping, dict) or key not in mapping:
        found = key_names(mapping) if isinstance(mapping, dict) else shown(mapping)
        raise UserError(f"{where}: no {key!r} (found: {found}). Expected {key!r}: {expected}.")
    value = mapping[key]
    if not isinstance(value, kind):
        found = "null" if value is None else JSON_NAMES.get(type(value), "another type")
        raise UserError(f"{where}.{key}: {found}, expected {expected}.")
    return value


def optional_text(mapping: Mapping[str, Any], key: str, where: str) -> str:
    """The text of a key; "" where it is missing or empty."""
    text: str = required({key: mapping.get(key) or ""}, key, str, where)
    return text


def message_weight(message: Mapping[str, Any], where: str) -> float:
    """A message's `weight`, or ms-swift's `loss` (true or false); 1 without either."""
    given = {key: message[key] for key in ("weight", "loss") if message.get(key) is not None}
    weights = set()
    for key in given:
        value = required(message, key, (int, float, bool), where)
        if not 0 <= value <= MAX_WEIGHT:
            raise UserError(
                f"{where}.{key}: {shown(value)}, expected a number from 0 to {MAX_WEIGHT:,}; "
                "0 leaves the message unsupervised."
            )
        weights.add(float(value))
    if len(weights) > 1:
        raise UserError(f"{where}: weight and loss differ. Keep the one that is meant.")
    return weights.pop() if weights else 1.0


def message_role(
    message: Any, key: str, roles: Mapping[str, Any], where: str
) -> Literal["system", "user", "assistant"]:
    """The role of a message.

    Args:
        message: of a row.
        key: of the role.
        roles: our role by the name that the format has for it.
        where: file, row and message, for the error.

    Raises:
        UserError: no role, or an unknown one.
    """
    name = required(message, key, str, where)
    if name not in roles:
        raise UserError(f"{where}.{key}: {unknown_name('role', name, roles)}")
    role: Literal["system", "user", "assistant"] = roles[name]
    return role


def question_type(row: Mapping[str, Any], source: str) -> str:
    """The row's `question_type`, or `kind` as versions before 0.2 called it; "" without either."""
    keys = filled_keys(row, ("question_type", "kind"))
    found = {required(row, key, str, source) for key in keys}
    if len(found) > 1:
        raise UserError(f"{source}: question_type and kind differ. Keep the one that is meant.")
    return found.pop() if found else ""


def filled_keys(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Those of the keys that have a value: null, "" and [] are how tables fill missing cells."""
    return [key for key in keys if row.get(key) not in (None, [], "")]


# Images


def fill_placeholders(messages: Sequence[Message], images: Sequence[ImageRef], source: str) -> None:
    """Put the images into the messages where they have placeholders: the next one, or by number.

    Raises:
        UnmatchedImages: another number of placeholders than of images, or one is shown nowhere.
    """
    places = [
        (message.parts, index)
        for message in messages
        for index, part in enumerate(message.parts)
        if part is None or isinstance(part, int)
    ]
    numbers = [parts[index] for parts, index in places]
    order = [number - 1 for number in numbers if isinstance(number, int)]
    if not order:
        order = list(range(len(numbers)))
    if len(order) != len(numbers) or set(order) != set(range(len(images))):
        raise UnmatchedImages(
            f"{source}: {len(places)} image placeholder(s) in the text, but {len(images)} image(s)"
            f" are listed. Write one {PLACEHOLDER} where each image is shown."
        )
    for (parts, index), number in zip(places, order, strict=True):
        parts[index] = images[number]


def refuse_images_in_message(message: Any, where: str) -> None:
    """Raise if a message lists images, which only the official DeepSeek-VL format does there.

    Raises:
        UserError: with where they belong.
    """
    for key in filled_keys(message, IMAGE_KEYS) if isinstance(message, dict) else ():
        raise UserError(
            f"{where}.{key}: images in a message. Expected them as the row's 'images', with one "
            f"{PLACEHOLDER} in the text where each is shown."
        )


# Messages to a Conversation


def system_messages(row: Mapping[str, Any], source: str, allowed: ImageSource) -> list[Message]:
    """The messages before those of the format itself: the row's `system` prompt, if it has one."""
    if row.get("system") is None:
        return []
    text = required(row, "system", str, source)
    return [Message("system", text_parts(text, f"{source}: system", allowed))]


def to_conversation(
    row: Mapping[str, Any],
    messages: Sequence[Message],
    source: str,
    allowed: ImageSource,
    *,
    images_first: bool = False,
    references: Sequence[str] = (),
) -> Conversation:
    """The messages as a Conversation, the row's images in their places.

    Args:
        row: with its images, system prompt and question type.
        messages: what it says; changed in place.
        source: file and row, for errors.
        allowed: where images may come from.
        images_first: put the images before the first question if no text has a placeholder.
        references: accepted answers to the last question, if they are more than the answer.

    Raises:
        UserError: images and placeholders do not match, or the system message is not the first.
    """
    images = row_images(row, source, allowed)
    parts = [part for message in messages for part in message.parts]
    if images_first and all(isinstance(part, (str, ImageRef)) for part in parts):
        question = next((one.parts for one in messages if one.role == "user"), [])
        question[:0] = [None] * len(images)
    fill_placeholders(messages, images, source)
    for message in messages:
        refuse_file_names(message, source, allowed)
    turns = [message for message in messages if message.role != "system"]
    return Conversation(
        turns=tuple(_turn(message) for message in turns),
        source=source,
        system=_system_prompt(messages, source),
        question_type=question_type(row, source),
        references=tuple(references),
    )


def refuse_file_names(message: Message, source: str, allowed: ImageSource) -> None:
    """Raise if what a user or the system says is the name of a picture and nothing else."""
    text = "".join(part for part in message.parts if isinstance(part, str)).strip()
    if message.role == "assistant" or len(text.split()) != 1:
        return
    if promised_media(text) or is_media_file(text, allowed):
        raise UserError(
            f"{source}: the {message.role}'s text is {shown(text)}, the name of a file. List it "
            f"under 'images', with {PLACEHOLDER} in its place."
        )


def row_images(row: Mapping[str, Any], source: str, allowed: ImageSource) -> list[ImageRef]:
    """The images that the row lists: `images` or `image`, one or a list of them.

    Raises:
        UserError: both, and they differ; or one is no image.
    """
    listed = [
        listed_images(row[key], f"{source}: {key}", allowed) for key in filled_keys(row, IMAGE_KEYS)
    ]
    if len(listed) > 1 and [one.name for one in listed[0]] != [one.name for one in listed[1]]:
        raise UserError(
            f"{source}: both 'image' and 'images', and they differ. Keep the one that is meant."
        )
    return listed[0] if listed else []


def listed_images(value: Any, where: str, allowed: ImageSource) -> list[ImageRef]:
    """One image or a list of them."""
    values = value if isinstance(value, list) else [value]
    return [image_ref(one, allowed, where) for one in values]


def _system_prompt(messages: Sequence[Message], source: str) -> str | None:
    """Text of the system message, which must come first; None without one."""
    if any(message.role == "system" for message in messages[1:]):
        raise UserError(
            f"{source}: a system message after another message. Expected it first and once."
        )
    if not messages or messages[0].role != "system":
        return None
    parts = messages[0].parts
    if any(isinstance(part, ImageRef) for part in parts):
        raise UserError(f"{source}: an image in the system message. Move it to a user's message.")
    return "".join(part for part in parts if isinstance(part, str))


def _turn(message: Message) -> Turn:
    """A message of the user or the assistant whose placeholders are filled."""
    assert message.role != "system"
    parts = tuple(part for part in message.parts if isinstance(part, (str, ImageRef)))
    return Turn(message.role, parts, message.weight)
