"""From an image reference to an RGB image, checked and upright, whatever the model family.

Two differences from the original DeepSeek-VL (`VLChatProcessor`), both on purpose: the EXIF
rotation is applied, once, and then dropped (the original shows a rotated photograph as it is stored
in the file), and images with 16 bits a channel are scaled to 8 (Pillow would clip them to white).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.images.download import downloaded
from dsvl_tune.data.images.file_hints import nearest_file
from dsvl_tune.data.images.media import HEAD_BYTES, signature

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
READ_FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "JPEG2000",
    "TGA",
)
"""Formats that are read. Others of Pillow's run programs (EPS), hold several images (PSD), or are
no image formats."""
TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
"""Values of the EXIF orientation that exchange width and height."""

# What Pillow's decoders raise on damaged files; the last ones come from TIFF and AVIF.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)


def load_image(ref: ImageRef, source: str) -> Image.Image:
    """Decode an image: upright (EXIF rotation applied), RGB, 8 bits.

    Transparency is dropped and the color under it shows, as with `convert("RGB")` in the original.
    One kind of damage goes unnoticed: a PNG whose compressed data ends properly but too early;
    Pillow leaves the missing rows black.

    Args:
        ref: what to read.
        source: file and row that show it, for the error.

    Raises:
        UserError: no such file, not an image, truncated, empty, several images in one file (an
            animation, pages), or more than `MAX_PIXELS`.
    """
    where = describe(ref, source)
    return decode(open_checked(ref, where), where)


def decode(image: Image.Image, where: str) -> Image.Image:
    """An opened picture as in `load_image`."""
    try:
        frames = getattr(image, "n_frames", 1)
        # A camera's MPO holds the photograph first, then views made from it.
        if frames > 1 and image.format != "MPO":
            raise UserError(
                f"{where}: {frames} images in one {image.format} file. Save the intended one "
                "as a file of its own."
            )
        image.load()
        return to_rgb(ImageOps.exif_transpose(image), where)
    except DECODE_ERRORS as error:
        raise UserError(f"{where}: damaged or truncated ({error}). Replace the file.") from None


def image_size(ref: ImageRef, source: str) -> tuple[int, int]:
    """(width, height) in px of the upright image, from its header.

    Args:
        ref: what to read.
        source: file and row that show it, for the error.

    Raises:
        UserError: no such file, not an image, empty, or more than `MAX_PIXELS`.
    """
    where = describe(ref, source)
    image = open_checked(ref, where)
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DECODE_ERRORS as error:
        raise UserError(f"{where}: damaged or truncated ({error}). Replace the file.") from None
    width, height = image.size
    return (height, width) if orientation in TRANSPOSING_ORIENTATIONS else (width, height)


def image_token_ids(ref: ImageRef, processor: Processor, images: int, source: str) -> list[int]:
    """The token ids that an image occupies; at most its header is read.

    Args:
        ref: the image.
        processor: of the checkpoint.
        images: number of images in the conversation.
        source: file and row that show it, for the error.

    Raises:
        UserError: as `image_size`, if the family needs the size.
    """
    family = processor.family
    size = image_size(ref, source) if family.needs_image_size else None
    return family.image_token_ids(processor, size, images)


def describe(ref: ImageRef, source: str) -> str:
    """An image and the row that shows it, as errors name them."""
    return f"{source}: image {ref.content if isinstance(ref.content, Path) else ref.name}"


def open_checked(ref: ImageRef, where: str) -> Image.Image:
    """The image with its header read and its size checked; a URL is fetched first."""
    content = from_network(ref, where) if isinstance(ref.content, str) else ref.content
    image = open_image(content, where)
    check_size(image, where)
    return image


def from_network(ref: ImageRef, where: str) -> bytes:
    """The bytes of an image that is given by its URL, decoded once before they are cached."""
    assert isinstance(ref.content, str)

    def check(content: bytes) -> None:
        decode(open_checked(replace(ref, content=content), where), where)

    return downloaded(ref.content, where, check)


def check_size(image: Image.Image, where: str) -> None:
    """Raise unless the image has pixels, and not too many; none of them is decoded yet."""
    width, height = image.size
    if width == 0 or height == 0:
        raise UserError(
            f"{where}: it is {width} x {height} px. Expected at least one pixel; replace the image."
        )
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{where}: it is {width} x {height} px, more than {MAX_PIXELS // 10**6} million "
            "pixels. The model scales images down anyway: make it smaller."
        )


def open_image(content: Path | bytes | Image.Image, where: str) -> Image.Image:
    """The image with its header read."""
    if isinstance(content, Image.Image):
        return content
    try:
        # Opening a pipe or a device could block forever.
        if isinstance(content, Path) and content.exists() and not content.is_file():
            raise UserError(
                f"{where}: not an image: not a file, but a folder, pipe or device. Expected the "
                "path of an image file."
            )
        return Image.open(
            BytesIO(content) if isinstance(content, bytes) else content, formats=READ_FORMATS
        )
    except FileNotFoundError:
        nearest = nearest_file(content) if isinstance(content, Path) else None
        hint = f"Did you mean {nearest.name!a}? " if nearest else ""
        raise UserError(
            f"{where}: no such file. {hint}Check the path and the images' root folder."
        ) from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{where}: too large ({error}). Make it smaller.") from None
    except PermissionError:
        raise UserError(f"{where}: may not be read. Check the file's permissions.") from None
    except DECODE_ERRORS as error:
        raise UserError(
            f"{where}: not an image that can be read ({not_an_image(content, error)}). Expected "
            "PNG, JPEG or a similar format."
        ) from None


def not_an_image(content: Path | bytes, error: BaseException) -> str:
    """What a file is instead of a picture that can be read, in a few words."""
    head = content[:HEAD_BYTES] if isinstance(content, bytes) else first_bytes(content)
    if head == b"":
        return "it is empty"
    found = signature(head or b"")
    if found is not None and not found.is_read:
        return f"it is {found.name}"
    if isinstance(error, UnidentifiedImageError):
        return "unknown format, or damaged in its first bytes"
    return str(error)


def first_bytes(path: Path) -> bytes | None:
    """The first bytes of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return None


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """8-bit RGB.

    16-bit gray (0..65535) is divided by 257. 32-bit samples have no known range and are refused.
    """
    if image.mode.startswith("I;16"):
        levels = (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)
        return Image.fromarray(levels).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(
            f"{where}: its samples have 32 bits and no known range. Save it with 8 or 16 bits a "
            "channel."
        )
    return image.convert("RGB")
