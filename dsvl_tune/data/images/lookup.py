"""An image as it is brought to the model: its stored features where there are any, else its pixels.

Features are found by a key of the image's content, never of its path, and of all that turns it into pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import PIL
from PIL import Image

from dsvl_tune.core.types import Features, ImageRef, ImageRule, Pixels, Processor
from dsvl_tune.data.images import load as images
from dsvl_tune.data.images.download import cached_picture
from dsvl_tune.data.images.load import from_levels, load_image, to_levels

EncodedImage: TypeAlias = "Pixels | Features"


def load_vision_input(ref: ImageRef, processor: Processor, source: str) -> EncodedImage:
    """Features or pixels.

    Raises:
        UserError: as `images.load_image`.
    """
    rule, key = processor.image_rule, ""
    if processor.features is not None or processor.squares is not None:
        ref, key = keyed(ref, rule, source)
    if processor.features is not None and (stored := processor.features.get(key)) is not None:
        return Features(ref.name, stored)
    kept = None if processor.squares is None else processor.squares.get(key)
    levels = to_levels(load_image(ref, source), rule) if kept is None else kept["square"]
    if kept is None and processor.squares is not None:
        processor.squares.put(key, {"square": levels})
    pixels = from_levels(levels, rule, ref.name, processor.compact)
    return pixels if processor.features is None else replace(pixels, key=key)


def keyed(ref: ImageRef, rule: ImageRule, source: str) -> tuple[ImageRef, str]:
    """The image with its bytes read, and the key of its features: a file that changes meanwhile cannot mix two images.

    Raises:
        UserError: the image cannot be read; one in memory only, others are not decoded here.
    """
    if isinstance(ref.content, Image.Image):
        picture = load_image(ref, source)
        ref, content = replace(ref, content=picture), f"{picture.size}".encode() + picture.tobytes()
    else:
        data = ref.content
        if isinstance(data, str):
            data = cached_picture(data, f"{source}: image {ref.name}")
        if isinstance(data, Path):
            if not data.is_file():
                load_image(ref, source)  # says what is wrong
            data = data.read_bytes()
        ref, content = replace(ref, content=data), data
    digest = hashlib.sha256(rule_digest(rule))
    digest.update(content)
    return ref, digest.hexdigest()


@lru_cache
def rule_digest(rule: ImageRule) -> bytes:
    """Of the rule, of the code that follows it, and of Pillow's release, whose decoders and resizing change."""
    code = Path(images.__file__).read_bytes()
    return hashlib.sha256(f"{rule} {PIL.__version__}".encode() + code).digest()
