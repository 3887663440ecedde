"""From an image reference to pixels, by the rule of the original DeepSeek-VL.

The original is deepseek_vl/models/image_processing_vlm.py (VLMImageProcessor.resize) for the padded square and
deepseek_vl/models/clip_encoder.py (HybridVisionTower) for the branches. Two differences, both meant:
the EXIF rotation is applied, once, and then forgotten (the original shows a turned photograph as it lies in the file),
and pictures with 16 bits a channel are scaled to 8 (Pillow would clip them to white).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Batch, Branch, ImageRef, ImageRule, Pixels, Prompts
from dsvl_tune.data.images.download import cached_picture

Brought = TypeVar("Brought", Batch, Prompts)

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""
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
"""Formats that are read. Others of Pillow's run programs (EPS), hold no one picture (PSD), or are not for pictures."""

# What Pillow's decoders raise on damaged files, TIFF's and AVIF's the last ones.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(LookupError, TypeError, RuntimeError, ArithmeticError, MemoryError),
)


def load_image(ref: ImageRef, source: str) -> Image.Image:
    """The picture, fully decoded, upright (EXIF rotation applied), RGB.

    Transparency is dropped and the colour under it shows, as `convert("RGB")` does in the original. One kind of damage
    is not seen: a PNG whose compressed data ends properly but too early; Pillow leaves the missing rows black.

    Args:
        ref: what to read.
        source: file and row that show it, for the error.

    Raises:
        UserError: no such file, not an image, truncated, empty, several pictures in one file (an animation, pages), or
            more than `MAX_PIXELS`.
    """
    where = f"{source}: image {ref.content if isinstance(ref.content, Path) else ref.name}"
    content = cached_picture(ref.content, where) if isinstance(ref.content, str) else ref.content
    image = open_image(content, where)
    check_size(image, where)
    try:
        frames = getattr(image, "n_frames", 1)
        if (
            frames > 1 and image.format != "MPO"
        ):  # a camera's MPO has the photograph first, then views made from it
            raise UserError(
                f"{where}: {frames} pictures in one {image.format} file. Save the one that is meant alone."
            )
        image.load()
        return to_rgb(ImageOps.exif_transpose(image), where)
    except DECODE_ERRORS as error:
        raise UserError(f"{where}: damaged or truncated ({error}). Replace the file.") from None


def check_size(image: Image.Image, where: str) -> None:
    """Raise unless the picture has pixels, and not too many; none of them is decoded yet."""
    width, height = image.size
    if width == 0 or height == 0:
        raise UserError(
            f"{where}: it is {width} x {height} px. Expected at least one pixel; replace the picture."
        )
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{where}: it is {width} x {height} px, more than {MAX_PIXELS // 10**6} million pixels. "
            "The model sees at most 1024 px a side: make it smaller."
        )


def open_image(source: Path | bytes | Image.Image, where: str) -> Image.Image:
    """The picture with its header read."""
    if isinstance(source, Image.Image):
        return source
    try:
        # A pipe or a device would be waited for without end.
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise UserError(
                f"{where}: not an image that can be read: not a file. Name a picture file."
            )
        return Image.open(
            BytesIO(source) if isinstance(source, bytes) else source, formats=READ_FORMATS
        )
    except FileNotFoundError:
        raise UserError(
            f"{where}: no such file. Check the path and the images' root folder."
        ) from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{where}: too large ({error}). Make it smaller.") from None
    except DECODE_ERRORS as error:
        raise UserError(
            f"{where}: not an image that can be read ({error}). Expected PNG, JPEG or the like."
        ) from None


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """8-bit RGB. 16-bit grey (0..65535) is divided by 257; 32-bit samples have no known range and are refused."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(
            (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)
        ).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(
            f"{where}: its samples have 32 bits and no known range. Save it with 8 or 16 bits a channel."
        )
    return image.convert("RGB")


def to_square(image: Image.Image, rule: ImageRule) -> Image.Image:
    """The picture resized to `rule.size` px on its longest side and centred on a square of the background colour.

    The other side is truncated, not rounded, after dividing first: int(side / longest * size), at least `min_size`.
    transformers rounds, which differs by a pixel row on about half of all sizes.
    """
    longest = max(image.size)
    width, height = (max(int(side / longest * rule.size), rule.min_size) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (rule.size, rule.size), rule.background)
    square.paste(resized, ((rule.size - width) // 2, (rule.size - height) // 2))
    return square


def to_pixels(image: Image.Image, rule: ImageRule, name: str) -> Pixels:
    """Both branches of one RGB picture: float32 [3, S, S], normalised."""
    return from_levels(to_levels(image, rule), rule, name)


def to_levels(image: Image.Image, rule: ImageRule) -> Tensor:
    """The square of one RGB picture: uint8 [3, S, S]."""
    return torch.from_numpy(np.array(to_square(image, rule))).permute(2, 0, 1).contiguous()


def from_levels(levels: Tensor, rule: ImageRule, name: str, compact: bool = False) -> Pixels:
    """Both branches of a square.

    Args:
        levels: uint8 [3, S, S], from `to_levels`. rule, name: as in `to_pixels`.
        compact: leave the branch of the square's own size as it is, a quarter of the bytes; `normalise` makes the rest.
    """
    if rule.high is None:
        return Pixels(
            name, levels if compact else normalise(levels.float().div_(255), rule.low), None
        )
    low = normalise(levels.float().div_(255), rule.low)
    return Pixels(name, low, levels if compact else normalise(levels.float().div_(255), rule.high))


def resize_square(square: Tensor, size: int) -> Tensor:
    """[3, S, S] in 0..1 -> [3, size, size]: antialiased bilinear on floats, as torchvision's Resize in the original."""
    if square.shape[-1] == size:
        return square
    return functional.interpolate(square[None], size=(size, size), mode="bilinear", antialias=True)[
        0
    ]


def normalise(square: Tensor, branch: Branch) -> Tensor:
    """The square at the branch's size, (x - mean) / std per channel: [3, S, S]; or [I, 3, S, S] of that size.

    A square of that size is written over: a new one costs more than the arithmetic.
    """
    mean, std = (
        torch.tensor(values, device=square.device).view(3, 1, 1)
        for values in (branch.mean, branch.std)
    )
    return resize_square(square, branch.size).sub_(mean).div_(std)


def finish_pixels(batch: Brought, rule: ImageRule) -> Brought:
    """The batch with levels that were left as they are normalised, where it lies now."""
    found: dict[str, Any] = {}
    for name, branch in (("pixel_values", rule.low), ("high_res_pixel_values", rule.high)):
        levels = getattr(batch, name)
        if branch is not None and levels is not None and levels.dtype == torch.uint8:
            found[name] = normalise(levels.float().div_(255), branch)
    return replace(batch, **found)
