"""References to images: what a row may say about a picture, and where it may point."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef


@dataclass(frozen=True)
class Home:
    """Where a row's images may come from.

    Attributes:
        root: folder that paths are relative to and may not leave, links followed.
        allow_urls: whether http and https URLs are fetched when a picture is needed.
    """

    root: Path
    allow_urls: bool = False


def image_ref(source: Any, home: Home, where: str) -> ImageRef:
    """The image that a row names.

    Args:
        source: a path below the root; a data: URL with the encoded picture; an http(s) URL where that is allowed;
            encoded bytes; `{"bytes": ..., "path": ...}` as in an image column of Hugging Face datasets; a PIL picture.
        home: where it may come from.
        where: file, row and field, for the error.

    Raises:
        UserError: something else, a path that leaves the root, a URL that is not allowed, or a damaged data: URL.
    """
    if isinstance(source, Mapping) and source.keys() & {"bytes", "path"}:
        source = source.get("bytes") or source.get("path")
    if isinstance(source, Image):
        return ImageRef(
            source, name=digest(f"{source.mode} {source.size}".encode() + source.tobytes())
        )
    if isinstance(source, (bytes, bytearray)):
        return ImageRef(bytes(source), name=digest(source))
    if not isinstance(source, str) or not source:
        raise UserError(
            f"{where}: image is {'empty' if not source else type(source).__name__}, expected a path below the images' "
            "root folder, a data: URL, bytes, or an object with bytes or path."
        )
    if source.startswith("data:"):
        return data_url(source, where)
    if "://" in source:
        return web_url(source, home, where)
    return file_ref(source, home.root, where)


def digest(content: bytes | bytearray) -> str:
    """A name for a picture by its content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def data_url(source: str, where: str) -> ImageRef:
    """The picture in a base64 data: URL (RFC 2397)."""
    header, _, content = source.partition(",")
    try:
        if not header.endswith(";base64"):
            raise ValueError("its header does not end in ;base64")
        picture = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"{where}: the image's data: URL ({header[:60]}) is not base64 ({error})."
        ) from None
    return ImageRef(picture, name=digest(picture))


def web_url(source: str, home: Home, where: str) -> ImageRef:
    """A picture on the network; fetched when it is read, not now."""
    if not home.allow_urls or not source.startswith(("http://", "https://")):
        raise UserError(
            f"{where}: image {source}: nothing is fetched over the network. Save it below {home.root}"
            + (", or set allow_urls." if source.startswith("http") else ".")
        )
    return ImageRef(source, name=source)


def file_ref(source: str, root: Path, where: str) -> ImageRef:
    """A file below the root, links followed."""
    try:
        path, home = (root / source).resolve(), root.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: image {source[:200]!r}: not a path ({error}).") from None
    if not path.is_relative_to(home):
        raise UserError(
            f"{where}: image {source}: outside the images' root folder {root}. Move it there, or set images_root."
        )
    return ImageRef(path, name=str(path))
