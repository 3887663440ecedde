"""From an RGB image to the vision inputs of DeepSeek-VL, in three steps.

1. `pad_image`: resized and centered on a square, in gray levels (uint8). This is the expensive
   step, whose result the image cache keeps.
2. `split_image`: the inputs of the vision towers. The larger one stays uint8, a quarter of the
   bytes on the way from a worker to the device.
3. `normalize`: what stayed uint8 becomes float32, on the device.

Sources: deepseek_vl/models/image_processing_vlm.py (VLMImageProcessor.resize) for the padded
square, deepseek_vl/models/clip_encoder.py (HybridVisionTower) for the inputs of the towers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIGLIP_INPUT = "pixel_values"
SAM_INPUT = "high_res_pixel_values"
TOWER_NAMES = {SIGLIP_INPUT: "SigLIP", SAM_INPUT: "SAM"}
PADDED_IMAGE = "padded_image"
MAX_LEVEL = 255


@dataclass(frozen=True)
class TowerPixels:
    """Pixels of a vision tower: the padded square in 0..1, resized, then (x - mean) / std.

    Attributes:
        size: side in px.
        mean: of each channel.
        std: of each channel.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes vision inputs.

    The longest side becomes `size`, the other is truncated to a whole pixel, and the rest of the
    square is `background`. The inputs of both towers are made from that square.

    Attributes:
        size: side of the padded square in px, the same as the largest tower's.
        background: padding color, RGB in 0..255.
        siglip: pixels of the SigLIP tower.
        sam: pixels of the SAM tower; None in the SigLIP-only models.
        tokens: visual tokens of an image (V).
        min_size: shortest side of the resized image in px.
    """

    size: int
    background: tuple[int, int, int]
    siglip: TowerPixels
    sam: TowerPixels | None
    tokens: int
    min_size: int = 14

    @property
    def towers(self) -> dict[str, TowerPixels]:
        """Pixels of each tower by the name of its vision input."""
        if self.sam is None:
            return {SIGLIP_INPUT: self.siglip}
        return {SIGLIP_INPUT: self.siglip, SAM_INPUT: self.sam}


def pad_image(image: Image.Image, settings: ImageSettings) -> dict[str, Tensor]:
    """The padded square of an RGB image: uint8 [1, 3, S, S]."""
    square = np.array(to_square(image, settings))
    levels = torch.from_numpy(square).permute(2, 0, 1).contiguous()
    return {PADDED_IMAGE: levels[None]}


def padded_shapes(settings: ImageSettings) -> dict[str, tuple[int, ...]]:
    """Shape of what `pad_image` returns."""
    return {PADDED_IMAGE: (1, 3, settings.size, settings.size)}


def to_square(image: Image.Image, settings: ImageSettings) -> Image.Image:
    """Resize an image to `settings.size` px on its longest side and center it on a square.

    The other side is truncated, not rounded, after dividing first: int(side / longest * size).
    transformers rounds, which differs by a row of pixels on about half of all sizes.
    """
    longest = max(image.size)
    width, height = (
        max(int(side / longest * settings.size), settings.min_size) for side in image.size
    )
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (settings.size, settings.size), settings.background)
    square.paste(resized, ((settings.size - width) // 2, (settings.size - height) // 2))
    return square


def split_image(padded: Mapping[str, Tensor], settings: ImageSettings) -> dict[str, Tensor]:
    """The vision inputs of a padded image.

    Args:
        padded: from `pad_image`.
        settings: of the checkpoint.

    Returns:
        By name [1, 3, S, S]: the input of the padded image's own size uint8, the other float32
        and normalized.
    """
    levels = padded[PADDED_IMAGE]
    if settings.sam is None:
        return {SIGLIP_INPUT: levels}
    return {SIGLIP_INPUT: normalize_levels(levels, settings.siglip), SAM_INPUT: levels}


def normalize(vision_inputs: Mapping[str, Tensor], settings: ImageSettings) -> dict[str, Tensor]:
    """Vision inputs as the model takes them: what is uint8 is normalized where it is.

    Args:
        vision_inputs: by name [I, 3, S, S], uint8 or float32.
        settings: of the checkpoint.

    Returns:
        By name [I, 3, S, S] float32.
    """
    return {
        name: normalize_levels(tensor, settings.towers[name])
        if tensor.dtype == torch.uint8
        else tensor
        for name, tensor in vision_inputs.items()
    }


def normalize_levels(levels: Tensor, tower: TowerPixels) -> Tensor:
    """uint8 [I, 3, S, S], resized and normalized: float32 [I, 3, tower.size, tower.size]."""
    resized = resize_square(levels.float().div_(MAX_LEVEL), tower.size)
    mean, std = channel_values(tower, levels.device)
    return resized.sub_(mean).div_(std)


def resize_square(square: Tensor, size: int) -> Tensor:
    """[I, 3, S, S] in 0..1 -> [I, 3, size, size], antialiased and bilinear, on floats.

    The same as torchvision's Resize, which the original code applies.
    """
    if square.shape[-1] == size:
        return square
    return functional.interpolate(square, size=(size, size), mode="bilinear", antialias=True)


def gray_levels(vision_inputs: Mapping[str, Tensor], settings: ImageSettings) -> dict[str, Tensor]:
    """Normalized vision inputs as levels again, to look at or to compare.

    Args:
        vision_inputs: by name [I, 3, S, S] float32.
        settings: of the checkpoint.

    Returns:
        By the name of the vision tower [I, 3, S, S] float32 in 0..255, the largest first.
    """
    levels = {}
    for name, tower in reversed(settings.towers.items()):
        mean, std = channel_values(tower, vision_inputs[name].device)
        levels[TOWER_NAMES[name]] = (vision_inputs[name] * std + mean) * MAX_LEVEL
    return levels


def channel_values(tower: TowerPixels, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a tower's channels, each [3, 1, 1] float32."""
    mean = torch.tensor(tower.mean, device=device).view(3, 1, 1)
    std = torch.tensor(tower.std, device=device).view(3, 1, 1)
    return mean, std


def blank_inputs(settings: ImageSettings) -> dict[str, Tensor]:
    """The vision inputs of a blank image: by name [1, 3, S, S] float32 zeros."""
    return {
        name: torch.zeros(1, 3, tower.size, tower.size) for name, tower in settings.towers.items()
    }


def blankable_inputs(settings: ImageSettings) -> dict[str, frozenset[str]]:
    """The vision inputs that each tower sees, and those of both; see `Family.blankable_inputs`."""
    inputs = {"image": frozenset(settings.towers)}
    if settings.sam is not None:
        inputs |= {"siglip": frozenset({SIGLIP_INPUT}), "sam": frozenset({SAM_INPUT})}
    return inputs


@lru_cache
def image_digest(settings: ImageSettings) -> str:
    """Changes whenever an image would become other vision inputs: of settings and code."""
    code = Path(__file__).read_bytes()
    return hashlib.sha256(f"{settings}".encode() + code).hexdigest()
