"""Formats of rows. Each is one function from a row to a Conversation and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

from dsvl_tune.data.sources import image_ref, read_rows
from dsvl_tune.schema import Conversation, ImageRef, Turn, UserError

PLACEHOLDER = "<image>"
Part = str | ImageRef | None
"""Text, an image, or None for the next of the images that the row lists beside its text."""
Message = tuple[str, list[Part], float]
"""Role ("system", "user" or "assistant"), parts, loss weight."""


def read_openai(row: Mapping[str, Any], origin: str, root: Path) -> Conversation:
    """OpenAI's `messages`: content is text, or parts of type text, image (a path) and image_url (a path or data: URL).

    Text may also hold `<image>` placeholders for the row's `images`, in order. `weight: 0` on an assistant's message
    leaves it unlearnt, as in OpenAI's fine-tuning files.
    """
    messages: list[Message] = []
    for number, message in enumerate(take(row, "messages", list, origin)):
        where = f"{origin}: messages[{number}]"
        role = known(take(message, "role", str, where), {name: name for name in ROLES}, f"{where}.role")
        content = take(message, "content", (str, list), where)
        if isinstance(content, str):
            parts = split_text(content)
        else:
            parts = [p for i, part in enumerate(content) for p in read_part(part, f"{where}.content[{i}]", root)]
        weight = take({"weight": 1, **message}, "weight", (int, float), where)
        messages.append((role, parts, float(weight)))
    return build(row, messages, origin, root)


def read_llava(row: Mapping[str, Any], origin: str, root: Path) -> Conversation:
    """LLaVA's and ShareGPT's `conversations`: `from` human or gpt, `value` with an `<image>` for each of the images."""
    messages: list[Message] = []
    if "system" in row:
        messages.append(("system", [take(row, "system", str, origin)], 1.0))
    for number, message in enumerate(take(row, "conversations", list, origin)):
        where = f"{origin}: conversations[{number}]"
        role = known(take(message, "from", str, where), LLAVA_ROLES, f"{where}.from")
        messages.append((role, split_text(take(message, "value", str, where)), 1.0))
    return build(row, messages, origin, root)


ROLES = ("system", "user", "assistant")
LLAVA_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}

Reader = Callable[[Mapping[str, Any], str, Path], Conversation]
Format = Literal["auto", "openai", "llava"]

# Name -> (the key that a row of this format has, its reader).
FORMATS: dict[str, tuple[str, Reader]] = {
    "openai": ("messages", read_openai),
    "llava": ("conversations", read_llava),
}


def read_conversations(path: Path, root: Path, format: Format = "auto") -> list[Conversation]:
    """Every row of a file, in order. Images are not read yet.

    Args:
        path: JSON list or JSONL.
        root: folder that image paths are relative to and may not leave.
        format: a name in `FORMATS`; "auto" tells it row by row from its keys.

    Raises:
        UserError: a row that is not of the format, or no row at all. The message names file, row and field.
    """
    conversations = [read_row(row, origin, root, format) for origin, row in read_rows(path)]
    if not conversations:
        raise UserError(f"{path}: no rows. Expected at least one conversation.")
    return conversations


def read_row(row: Any, origin: str, root: Path, format: Format) -> Conversation:
    """One row by the reader of its format."""
    if not isinstance(row, dict):
        raise UserError(f"{origin}: {type(row).__name__}, expected a JSON object with the keys of a conversation.")
    for name, (key, reader) in FORMATS.items():
        if format == name or (format == "auto" and key in row):
            return reader(row, origin, root)
    keys = " or ".join(f"{key!r} ({name})" for name, (key, _) in FORMATS.items())
    raise UserError(f"{origin}: keys {', '.join(map(repr, row)) or 'none'}, expected {keys}. Rename the row's key.")


def take(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The value of a key that must be there, of the JSON type that it must have."""
    kinds = " or ".join(JSON_NAMES[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
    if not isinstance(mapping, dict) or key not in mapping:
        found = ", ".join(map(repr, mapping)) if isinstance(mapping, dict) else type(mapping).__name__
        raise UserError(f"{where}: no {key!r} there (found: {found or 'nothing'}). Expected {key!r}: {kinds}.")
    if not isinstance(mapping[key], kind):
        found = "null" if mapping[key] is None else JSON_NAMES.get(type(mapping[key]), "another type")
        raise UserError(f"{where}.{key}: {found}, expected {kinds}.")
    return mapping[key]


JSON_NAMES = {str: "text", list: "a list", dict: "an object", int: "a number", float: "a number", bool: "true or false"}


def known(name: str, names: Mapping[str, str], where: str) -> str:
    """What a name stands for; an unknown one is told with the nearest known one."""
    if name in names:
        return names[name]
    nearest = get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"{where}: unknown {name!r}, expected one of {', '.join(names)}.{hint}")


def read_part(part: Any, where: str, root: Path) -> list[Part]:
    """One part of an OpenAI message."""
    kinds = {name: name for name in ("text", "image", "image_url")}
    kind = known(take(part, "type", str, where), kinds, f"{where}.type")
    if kind == "text":
        return split_text(take(part, "text", str, where))
    if kind == "image":
        return [image_ref(take(part, "image", str, where), root, where)] if "image" in part else [None]
    url = take(part, "image_url", (str, dict), where)
    source = url if isinstance(url, str) else take(url, "url", str, f"{where}.image_url")
    return [image_ref(source, root, where)]


def split_text(text: str) -> list[Part]:
    """The text with None for each of its placeholders."""
    first, *rest = text.split(PLACEHOLDER)
    return [first, *(part for after in rest for part in (None, after))]


def build(row: Mapping[str, Any], messages: list[Message], origin: str, root: Path) -> Conversation:
    """The messages as a Conversation: the row's images in their places, the system message apart."""
    fill_places(messages, row_images(row, origin, root), origin)
    system = None
    if messages and messages[0][0] == "system":
        parts = messages.pop(0)[1]
        if any(isinstance(part, ImageRef) for part in parts):
            raise UserError(f"{origin}: an image in the system message. Move it to a user's message.")
        system = "".join(map(str, parts))
    if any(role == "system" for role, _, _ in messages):
        raise UserError(f"{origin}: a system message after another message. Expected it first and once.")
    turns = tuple(
        Turn(cast(Literal["user", "assistant"], role), cast(tuple[str | ImageRef, ...], tuple(parts)), weight)
        for role, parts, weight in messages
    )
    return Conversation(turns, origin, system, kind=take({"kind": "", **row}, "kind", str, origin))


def row_images(row: Mapping[str, Any], origin: str, root: Path) -> list[ImageRef]:
    """The images that the row lists beside its text: `images` or `image`, a path or a list of them."""
    key = "image" if "image" in row else "images"
    listed = take({key: [], **row}, key, (list, str), origin)
    sources = [listed] if isinstance(listed, str) else listed
    if not all(isinstance(source, str) for source in sources):
        raise UserError(f"{origin}.{key}: expected paths below the images' root folder, as text.")
    return [image_ref(source, root, origin) for source in sources]


def fill_places(messages: list[Message], images: list[ImageRef], origin: str) -> None:
    """Put the row's images where the messages have None, in order."""
    places = [(parts, i) for _, parts, _ in messages for i, part in enumerate(parts) if part is None]
    if len(places) != len(images):
        raise UserError(
            f"{origin}: {len(places)} {PLACEHOLDER} placeholder(s) in the text, {len(images)} image(s) beside it. "
            f"Expected as many of one as of the other: write one {PLACEHOLDER} where each image is shown."
        )
    for (parts, i), image in zip(places, images, strict=True):
        parts[i] = image
