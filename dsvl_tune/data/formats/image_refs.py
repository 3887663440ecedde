"""Image references of rows: what a row may give as an image, and where it may point."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from PIL.Image import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.formats.values import shown
from dsvl_tune.data.images.media import HEAD_BYTES, Signature, signature

MAX_PATH_CHARACTERS = 4096
"""A longer text is no path (PATH_MAX of Linux)."""
BASE64_HEAD = 512
"""Characters that tell whether a text is a picture in base64."""
BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}\Z")
LABEL_STUDIO = ("/data/upload/", "/data/local-files/")
"""How Label Studio's exports name files: its upload folder, and files that it was pointed to."""


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
        value: a path below the root; a data: URL with the encoded image, or its base64 alone; an
            http(s) URL where that is allowed; encoded bytes; `{"bytes": ..., "path": ...}` as in
            an image column of Hugging Face datasets; a PIL image.
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
            "URL, base64, bytes, or an object with bytes or path."
        )
    if value.startswith("data:"):
        header, _, content = value.partition(",")
        if not header.endswith(";base64"):
            raise _not_base64(f"data: URL of the image ({header[:60]})", where, "in its header")
        return _from_base64(content, f"data: URL of the image ({header[:60]})", where)
    if base64_picture(value) is not None:
        return _from_base64(value, "image, which begins like one in base64,", where)
    if "://" in value[:100]:
        return _from_url(value, allowed, where)
    return _from_path(value, allowed.root, where)


def _content_name(content: bytes | bytearray) -> str:
    """A name for an image by its content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# Base64


def base64_picture(text: str) -> Signature | None:
    """The format of a picture, clip or sound that is written as base64 without a header.

    Args:
        text: of any length; only its first characters are looked at.
    """
    head = "".join(text[:BASE64_HEAD].split())
    if len(head) < 40 or BASE64.match(head) is None:
        return None
    head = head.rstrip("=")[: len(head.rstrip("=")) // 4 * 4]
    return signature(base64.b64decode(head, altchars=b"-_" if "-" in head or "_" in head else None))


def _from_base64(text: str, what: str, where: str) -> ImageRef:
    """The image in base64 (RFC 2397 for data: URLs); line breaks are left out."""
    try:
        image = base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_base64(what, where, str(error)) from None
    return ImageRef(image, name=_content_name(image))


def _not_base64(what: str, where: str, reason: str) -> UserError:
    return UserError(f"{where}: the {what} is not base64 ({reason}).")


# URLs


def _from_url(url: str, allowed: ImageSource, where: str) -> ImageRef:
    """An image on the network; fetched when it is needed, not now."""
    is_http = url.startswith(("http://", "https://"))
    if not allowed.allow_urls or not is_http:
        remedy = f"Save it below {allowed.root}" + (", or set allow_urls." if is_http else ".")
        raise UserError(
            f"{where}: image {shown(url)}: nothing is fetched over the network. {remedy}"
        )
    return ImageRef(url, name=url)


# Paths


def _from_path(value: str, root: Path, where: str) -> ImageRef:
    """A file below the root, symbolic links followed."""
    path = below(value, root)
    if isinstance(path, str):
        raise UserError(f"{where}: image {shown(value)}: not a path ({path}).")
    if path is None and value.startswith(LABEL_STUDIO):
        return _from_label_studio(value, root, where)
    if path is None:
        raise UserError(
            f"{where}: image {shown(value)}: outside the images' root folder {root}. Move it "
            "there, or set images_root."
        )
    return ImageRef(path, name=str(path))


def below(value: str, root: Path) -> Path | str | None:
    """The file that a path names, symbolic links followed.

    Returns:
        The path; None if it leaves the root; why it is no path at all.
    """
    if len(value) > MAX_PATH_CHARACTERS:
        return f"{len(value):,} characters"
    try:
        path = (root / value).resolve()
        return path if path.is_relative_to(root.resolve()) else None
    except (OSError, ValueError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error)


def _from_label_studio(value: str, root: Path, where: str) -> ImageRef:
    """A file that an export of Label Studio names by its place on the server."""
    tried = list(label_studio_names(value))
    for name in tried:
        path = below(name, root)
        if isinstance(path, Path) and path.is_file():
            return ImageRef(path, name=str(path))
    raise UserError(
        f"{where}: image {shown(value)} is a file of Label Studio's server, and below {root} is "
        f"none of {', '.join(map(shown, tried[:4]))}. Copy the files there, or set images_root."
    )


def label_studio_names(value: str) -> Iterator[str]:
    """Where files of a Label Studio server may be below the root, the most exact place first."""
    parts = urlsplit(value)
    name = (parse_qs(parts.query).get("d") or [unquote(parts.path).removeprefix("/data/")])[0]
    folders = name.strip("/").split("/")
    for start in range(len(folders)):
        yield "/".join(folders[start:])
    yield f"images/{folders[-1]}"  # as its exports to COCO and YOLO lay them out


@lru_cache(maxsize=1 << 16)
def is_media_file(value: str, allowed: ImageSource) -> bool:
    """Whether a text names a file below the root that begins like a picture, clip or sound."""
    if not 0 < len(value) <= 300 or "\n" in value or "://" in value:
        return False
    path = below(value, allowed.root)
    try:
        if not isinstance(path, Path) or not path.is_file():
            return False
        with path.open("rb") as file:
            return signature(file.read(HEAD_BYTES)) is not None
    except (OSError, ValueError):
        return False
