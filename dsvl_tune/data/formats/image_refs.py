"""Image references of rows: what a row may give as an image, and where it may point."""

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
class ImageSource:
    """Where the images of a row may come from.

    Attributes:
        root: folder that paths are relative to and may not leave, symbolic links followed.
        allow_urls: whether http and https URLs are fetched when an image is needed.
    """

    root: Path
    allow_urls: bool = False


def image_ref(value: Any, allowed: ImageSource, where: str) -> ImageRef:
    """The image that a row gives; it is not read yet.

    Args:
        value: a path below the root; a data: URL with the encoded image; an http(s) URL where
            that is allowed; encoded bytes; `{"bytes": ..., "path": ...}` as in an image column of
            Hugging Face datasets; a PIL image.
        allowed: where it may come from.
        where: file, row and field, for the error.

    Raises:
        UserError: anything else, a path that leaves the root, a URL that is not allowed, or a
            damaged data: URL.
    """
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image):
        pixels = f"{value.mode} {value.size}".encode() + value.tobytes()
        return ImageRef(value, name=_content_name(pixels))
    if isinstance(value, (bytes, bytearray)):
        return ImageRef(bytes(value), name=_content_name(value))
    if not isinstance(value, str) or not value:
        found = type(value).__name__ if value else "empty"
        raise UserError(
            f"{where}: image is {found}, expected a path below the images' root folder, a data: "
            "URL, bytes, or an object with bytes or path."
        )
    if value.startswith("data:"):
        return _from_data_url(value, where)
    if "://" in value:
        return _from_url(value, allowed, where)
    return _from_path(value, allowed.root, where)


def _content_name(content: bytes | bytearray) -> str:
    """A name for an image by its content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _from_data_url(url: str, where: str) -> ImageRef:
    """The image in a base64 data: URL (RFC 2397)."""
    header, _, content = url.partition(",")
    try:
        if not header.endswith(";base64"):
            raise ValueError("its header does not end in ;base64")
        image = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"{where}: the data: URL of the image ({header[:60]}) is not base64 ({error})."
        ) from None
    return ImageRef(image, name=_content_name(image))


def _from_url(url: str, allowed: ImageSource, where: str) -> ImageRef:
    """An image on the network; fetched when it is needed, not now."""
    is_http = url.startswith(("http://", "https://"))
    if not allowed.allow_urls or not is_http:
        remedy = f"Save it below {allowed.root}" + (", or set allow_urls." if is_http else ".")
        raise UserError(f"{where}: image {url}: nothing is fetched over the network. {remedy}")
    return ImageRef(url, name=url)


def _from_path(value: str, root: Path, where: str) -> ImageRef:
    """A file below the root, symbolic links followed."""
    try:
        path = (root / value).resolve()
        resolved_root = root.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: image {value[:200]!r}: not a path ({error}).") from None
    if not path.is_relative_to(resolved_root):
        raise UserError(
            f"{where}: image {value}: outside the images' root folder {root}. Move it there, or "
            "set images_root."
        )
    return ImageRef(path, name=str(path))
