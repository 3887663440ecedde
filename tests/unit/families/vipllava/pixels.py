"""An image as CLIP takes it: resized to a square and normalized."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Source: transformers, OPENAI_CLIP_MEAN and OPENAI_CLIP_STD in image_utils.py."""


def levels(image: Image.Image, size: int) -> Tensor:
    """The levels of an image at `size` px: [1, 3, S, S] uint8."""
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].contiguous()


def normalize(pixels: Tensor) -> Tensor:
    """From levels [I, 3, S, S] uint8 to float32 of the same shape."""
    mean, std = channels(pixels.device)
    return (pixels.float() / 255 - mean) / std


def denormalize(pixels: Tensor) -> Tensor:
    """From normalized pixels [I, 3, S, S] float32 to levels in 0..255."""
    mean, std = channels(pixels.device)
    return (pixels * std + mean) * 255


def channels(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels, each [3, 1, 1] float32."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return mean, std


def processor_settings(size: int) -> dict[str, object]:
    """The same in the keys of transformers' CLIP image processor."""
    square = {"height": size, "width": size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_center_crop": False,
        "size": square,
        "crop_size": square,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
