"""The files next to the weights that transformers' DeepSeek-VL classes read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PreTrainedTokenizerFast

from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.files import write_json
from dsvl_tune.core.weight_headers import read_json
from dsvl_tune.families.deepseek_vl.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.config import MODELS
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings
from dsvl_tune.families.deepseek_vl.sizes import visual_tokens
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

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
    config.save_pretrained(target)
    settings = read_json(target / "config.json")
    settings["text_config"] |= rotary_settings(settings["text_config"]["rope_parameters"])
    write_json(target / "config.json", settings)
    GenerationConfig(**checkpoint.special_ids, do_sample=False).save_pretrained(target)

    tokenizer = copy.deepcopy(checkpoint.tokenizer)
    tokenizer.chat_template = chat_template(processor.default_system)
    tokenizer.save_pretrained(target)
    settings = read_json(target / "tokenizer_config.json")
    settings |= special_tokens(tokenizer) | {
        "processor_class": f"{classes}Processor",
        # The name that releases before transformers 5 know, too.
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Those would also make token types, which `generate` refuses.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    write_json(target / "tokenizer_config.json", settings)

    image_settings = image_processor_settings(processor.image_settings, classes)
    write_json(target / "preprocessor_config.json", image_settings)
    processor_settings = {
        "processor_class": f"{classes}Processor",
        "num_image_tokens": visual_tokens(config),
    }
    write_json(target / "processor_config.json", processor_settings)


def rotary_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """The keys of rotary positions that releases of transformers before 5 read.

    Without them those take a base of 10,000 and no scaling, whatever the model was trained with.

    Args:
        parameters: `rope_parameters` of the text section.
    """
    settings: dict[str, Any] = {"rope_theta": parameters["rope_theta"]}
    if parameters["rope_type"] != "default":
        settings["rope_scaling"] = parameters
    return settings


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokens that only some models have, in the form that every release reads.

    transformers' processor class asks its tokenizer for the image token by this name, and releases
    before 5 take `extra_special_tokens` as a dictionary only.
    """
    others = [token for token in tokenizer.extra_special_tokens if token != IMAGE_TOKEN]
    settings: dict[str, Any] = {"extra_special_tokens": {"image_token": IMAGE_TOKEN}}
    return settings | ({"additional_special_tokens": others} if others else {})


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
