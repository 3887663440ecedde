"""The plugin of vLLM for DeepSeek-VL (entry point `vllm.general_plugins`).

vLLM runs the model by its Transformers backend, in transformers' own classes. Two things are given
to their processors, in vLLM's processes alone: the number of visual tokens of an image, which that
backend asks for and they cannot tell; and the pixels that the model was trained on, which their
image processors make differently (docs/serve.md).

Nothing here imports vLLM, and only transformers, `core` and `families` are needed of what this
package needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BatchFeature,
    DeepseekVLHybridProcessor,
    DeepseekVLProcessor,
    ProcessorMixin,
)
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData

from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, normalize, pad_image, split_image
from dsvl_tune.families.deepseek_vl.processor import image_settings_of


def register() -> None:
    """Complete transformers' processors; vLLM calls this in each of its processes."""
    for processor in (DeepseekVLProcessor, DeepseekVLHybridProcessor):
        processor._get_num_multimodal_tokens = count_visual_tokens
        processor._process_images = process_images


def count_visual_tokens(
    processor: ProcessorMixin, image_sizes: Sequence[tuple[int, int]] = (), **_: Any
) -> MultiModalData:
    """How many visual tokens images have, and how many rows of pixels: always the same.

    Args:
        processor: of the checkpoint.
        image_sizes: height and width of each image in px.
    """
    images = len(image_sizes)
    return MultiModalData(
        num_image_tokens=[processor.num_image_tokens] * images, num_image_patches=[1] * images
    )


def process_images(
    processor: ProcessorMixin, images: Any, **_: Any
) -> tuple[BatchFeature, list[str]]:
    """What transformers' processors ask for images: vision inputs, and the text of each image.

    Args:
        processor: of the checkpoint.
        images: PIL images, in a list of any depth.
    """
    settings = image_settings_of(
        json.loads(processor.image_processor.to_json_string()),
        hybrid=isinstance(processor, DeepseekVLHybridProcessor),
        tokens=processor.num_image_tokens,
    )
    made = [vision_inputs(image, settings) for image in make_flat_list_of_images(images)]
    inputs = BatchFeature({name: torch.cat([one[name] for one in made]) for name in made[0]})
    return inputs, [processor.replace_image_token(inputs, index) for index in range(len(made))]


def vision_inputs(image: Image.Image, settings: ImageSettings) -> dict[str, Tensor]:
    """The inputs of the vision towers for an image, as in training and in `chat`.

    Args:
        image: in any mode.
        settings: of the checkpoint.

    Returns:
        By name [1, 3, S, S] float32.
    """
    padded = pad_image(image.convert("RGB"), settings)
    return normalize(split_image(padded, settings), settings)
