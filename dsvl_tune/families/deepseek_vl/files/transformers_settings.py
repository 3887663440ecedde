"""The files next to the weights that transformers' DeepSeek-VL classes read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.families.deepseek_vl.config import MODELS
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings
from dsvl_tune.families.deepseek_vl.sizes import visual_tokens
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN
from dsvl_tune.families.transformers_files import write_config, write_tokenizer

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers of the two resampling filters."""


def write_transformers_settings(checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    """Write config.json, generation settings, tokenizer, chat template and image settings.

    Args:
        checkpoint: the base.
        target: folder to write to.
        dtype: of most of the written weights.
    """
    processor = checkpoint.processor
    config = copy.deepcopy(checkpoint.config)
    classes = "DeepseekVLHybrid" if processor.image_settings.sam else "DeepseekVL"
    config.architectures = [MODELS[config.model_type].__name__]
    config.dtype = DTYPES[dtype]
    write_config(config, target)
    GenerationConfig(**checkpoint.special_ids, do_sample=False).save_pretrained(target)

    write_tokenizer(
        checkpoint.tokenizer,
        target,
        template=chat_template(processor.default_system),
        named_tokens={"image_token": IMAGE_TOKEN},
        processor_class=f"{classes}Processor",
    )
    image_settings = image_processor_settings(processor.image_settings, classes)
    write_json(target / "preprocessor_config.json", image_settings)
    processor_settings = {
        "processor_class": f"{classes}Processor",
        "num_image_tokens": visual_tokens(config),
    }
    write_json(target / "processor_config.json", processor_settings)


def image_processor_settings(images: ImageSettings, classes: str) -> dict[str, Any]:
    """Image settings in the keys of transformers' image processors, none left to a default.

    transformers rounds the short side where the original truncates, so about every second size
    differs by a pixel row.

    Args:
        images: how images become vision inputs.
        classes: first part of the names of transformers' classes.
    """
    settings: dict[str, Any] = {
        "image_processor_type": f"{classes}ImageProcessor",
        "processor_class": f"{classes}Processor",
        "size": {"height": images.siglip.size, "width": images.siglip.size},
        "image_mean": list(images.siglip.mean),
        "image_std": list(images.siglip.std),
        "min_size": images.min_size,
        # In the hybrid models SigLIP's input is resized bilinearly from the padded square.
        "resample": BILINEAR if images.sam else BICUBIC,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "rescale_factor": 1 / 255,
    }
    if images.sam is not None:
        settings |= {
            "high_res_size": {"height": images.sam.size, "width": images.sam.size},
            "high_res_image_mean": list(images.sam.mean),
            "high_res_image_std": list(images.sam.std),
            "high_res_resample": BICUBIC,
        }
    return settings
