"""Images, clips and sounds of a row that its format does not read: errors, found by their value.

A key's name says little: people call an image `Images`, `image_1`, `file_name` or `captioning`.
What a value is says all: bytes, an object with bytes or path, a data: URL, base64, or a text that
ends like the name of a picture or names a file below the root.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL.Image import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.formats.image_refs import (
    ImageSource,
    base64_picture,
    below,
    image_ref,
    is_media_file,
)
from dsvl_tune.data.formats.values import shown
from dsvl_tune.data.images.media import named_media, signature

MEDIA_KEY = re.compile(
    r"(?P<picture>images?|imgs?|pictures?|pics?|photos?|pixel[ _-]?values)"
    r"|(videos?|clips?|audios?|sounds?|speech)",
    re.IGNORECASE,
)
SUFFIX = re.compile(
    r"([ _-]?(ids?|names?|files?|file[ _-]?names?|paths?|urls?|bytes|data|base64|b64|\d+))*\Z",
    re.IGNORECASE,
)
"""What may follow in a key that names a picture: `image_path`, `imageId`, `img_1`."""
MAX_NAME_CHARACTERS = 1000
MAX_NAME_WORDS = 4
"""A longer text that ends like a file name is a sentence, unless there is such a file."""
MIN_PIXELS = 8
"""Height and width from which nested lists of numbers are pixels."""


class Found(NamedTuple):
    """A picture, clip or sound in a row.

    Attributes:
        key: the top key that it is under.
        value: what the row holds.
        what: what it is, in words.
        is_name: whether the row only names it.
    """

    key: str
    value: Any
    what: str
    is_name: bool = False


def refuse_unread(
    mapping: Mapping[str, Any],
    read: Collection[str],
    where: str,
    allowed: ImageSource,
    images: Sequence[ImageRef] = (),
) -> None:
    """Raise if a row, message or part holds a picture, clip or sound under a key that is not read.

    Args:
        mapping: the row, message or part.
        read: its keys that are read.
        where: file, row and field, for the error.
        allowed: where images may come from.
        images: those that the row shows. Another name of one of them is no further picture.

    Raises:
        UserError: with the key.
    """
    for key, value in mapping.items():
        if key in read or value is None:
            continue
        for found in media_of(str(key), value, allowed):
            if not is_shown(found, images, allowed, where):
                raise unread(found, where)
        if not images and names_media(str(key), value):
            raise unread(Found(str(key), value, shown(value)), where)


def unread(found: Found, where: str) -> UserError:
    """The error for something that is not read."""
    key = shown(found.key)
    if "clip" in found.what or "sound" in found.what:
        return UserError(
            f"{where}: {key} holds {found.what}, and only images are read. Remove it, or leave the "
            "row out."
        )
    return UserError(
        f"{where}: no image is read from {key} ({found.what}). Rename it to 'image', or remove it."
    )


def names_media(key: str, value: Any) -> bool:
    """Whether a key says that its value is or names a picture, clip or sound."""
    found = MEDIA_KEY.match(key)
    if found is None or SUFFIX.match(key, found.end()) is None:
        return False
    return not (isinstance(value, bool) or value in (0, -1, "", [], {}))


# By value


def media_of(key: str, value: Any, allowed: ImageSource) -> Iterator[Found]:
    """What a value and those inside it are.

    Args:
        key: the top key that the value is under.
        value: as deep as it may be.
        allowed: where images may come from.
    """
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, (str, bytes, bytearray, Image)):
            yield from leaf_media(key, inner, allowed)
        elif isinstance(inner, Mapping):
            content = inner.get("bytes") or inner.get("path")
            if isinstance(content, (str, bytes)) and inner.keys() <= {"bytes", "path"}:
                named = isinstance(content, str) and named_media(content)
                yield Found(
                    key, inner, f"a {named or 'picture'} with bytes or path", not inner.get("bytes")
                )
            elif {"array", "sampling_rate"} <= inner.keys():
                yield Found(key, inner, "a sound")
            else:
                waiting += inner.values()
        elif isinstance(inner, (list, tuple)):
            if is_pixels(inner):
                yield Found(key, inner, "the pixels of a picture")
            elif inner and not isinstance(inner[0], (int, float)):
                waiting += inner


def leaf_media(
    key: str, value: str | bytes | bytearray | Image, allowed: ImageSource
) -> Iterator[Found]:
    """What a text, bytes or picture is."""
    if isinstance(value, Image):
        yield Found(key, value, "a picture")
    elif isinstance(value, (bytes, bytearray)):
        found = signature(bytes(value[:1024]))
        if found is not None:
            yield Found(key, value, f"a {found.media} ({found.name})")
        elif value and not is_text(value):
            yield Found(key, value, f"{len(value):,} bytes that are no text")
    elif value.startswith("data:") and ";base64," in value[:200]:
        yield Found(key, value, f"a data: URL, {shown(value[:40])}")
    elif (encoded := base64_picture(value)) is not None:
        yield Found(key, value, f"a {encoded.media} in base64 ({encoded.name})")
    elif is_media_file(value, allowed):
        yield Found(key, value, f"{shown(value)}, a file", is_name=True)
    elif (media := promised_media(value)) is not None:
        yield Found(key, value, f"{shown(value)}, the name of a {media}", is_name=True)


def promised_media(text: str) -> str | None:
    """What a text that may be a file's name promises to be."""
    media = named_media(text)
    if media is None or len(text) > MAX_NAME_CHARACTERS or "\n" in text.strip():
        return None
    return media if len(text.split()) <= MAX_NAME_WORDS else None


def is_text(content: bytes | bytearray) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return "\0" not in text


def is_pixels(values: Sequence[Any]) -> bool:
    """Whether nested lists have the shape of a picture: height and width, and a few channels."""
    shape: list[int] = []
    inner: Any = values
    while isinstance(inner, (list, tuple)) and inner and len(shape) < 4:
        shape.append(len(inner))
        inner = inner[0]
    is_number = isinstance(inner, (int, float)) and not isinstance(inner, bool)
    sides = [size for size in shape if size >= MIN_PIXELS]
    channels = [size for size in shape if size in (1, 3, 4)]
    return is_number and len(shape) == 3 and len(sides) == 2 and len(channels) == 1


# Next to images that are shown


def is_shown(found: Found, images: Sequence[ImageRef], allowed: ImageSource, where: str) -> bool:
    """Whether a picture is one that the row shows anyway, or only its name elsewhere."""
    if not images or "clip" in found.what or "sound" in found.what:
        return False
    names = {ref.name for ref in images}
    if not found.is_name:
        try:
            return image_ref(found.value, allowed, where).name in names
        except UserError:
            return False
    name = found.value["path"] if isinstance(found.value, Mapping) else found.value
    if "://" in name:
        return True
    path = below(name, allowed.root)
    if isinstance(path, Path) and path.is_file():
        return str(path) in names
    stems = {PurePosixPath(ref.name).stem for ref in images}
    return PurePosixPath(name).stem in stems or any(one.startswith("sha256:") for one in names)
