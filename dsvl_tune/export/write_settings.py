"""What lies beside the weights of a written checkpoint: configuration, tokenizer, chat template, image settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from dsvl_tune.core.files import write_json, write_whole
from dsvl_tune.core.weight_headers import WEIGHTS_INDEX, read_headers, read_json
from dsvl_tune.export.write_weights import Layout
from dsvl_tune.families.deepseek_vl.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.original_settings import original_settings
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings
from dsvl_tune.families.deepseek_vl.processor import default_system_prompt, read_image_rule
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN, load_tokenizer, special_ids
from dsvl_tune.families.deepseek_vl.vision_features import visual_tokens
from dsvl_tune.models.checkpoint.weights import CLASSES, ORIGINAL_FOLDER, Weights

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CHAT_TEMPLATE = "chat_template.jinja"
BASE_CARD = "README_BASE.md"
"""The base's own model card, whose notices stay with its weights."""
REPORT = "merge_report.json"
"""What `merge` measured, beside the weights."""


def write_other_files(weights: Weights, target: Path, layout: Layout) -> None:
    """Everything but the weights, the README and the hashes.

    The settings of an original checkpoint go along in a folder of a checkpoint in transformers' layout, and are put
    back as they were when it is written in the original layout again.

    Args:
        weights: the base. target: with the weights written. layout: that they were written in.
    """
    for path in weights.folder.glob("LICENSE*"):
        shutil.copyfile(path, target / path.name)
    if (weights.folder / "README.md").is_file():
        shutil.copyfile(weights.folder / "README.md", target / BASE_CARD)
    kept = weights.folder if weights.original else weights.folder / ORIGINAL_FOLDER
    dtype = main_dtype(target)
    if layout == "transformers":
        if kept.is_dir():
            copy_settings(kept, target / ORIGINAL_FOLDER)
        write_transformers_files(weights, target, dtype)
    elif kept.is_dir():
        copy_settings(kept, target)
        config = read_json(kept / "config.json")
        if main_dtype(weights.folder) != dtype:
            config["torch_dtype"] = config["language_config"]["torch_dtype"] = dtype
            write_json(target / "config.json", config)
    else:
        write_original_files(weights, target, dtype)


def copy_settings(source: Path, target: Path) -> None:
    """Copy the JSON, jinja and text files of an original checkpoint, byte for byte."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name not in (WEIGHTS_INDEX, REPORT):
            shutil.copyfile(path, target / path.name)


def main_dtype(folder: Path) -> str:
    """The dtype that most of a checkpoint's tensors have."""
    dtypes = [stored.dtype for stored in read_headers(folder).values()]
    return DTYPE_NAMES[max(set(dtypes), key=dtypes.count)]


def write_transformers_files(weights: Weights, target: Path, dtype: str) -> None:
    """config.json, tokenizer, chat template and image settings, as transformers' classes read them."""
    config, tokenizer = weights.config, load_tokenizer(weights.folder)
    rule = read_image_rule(
        weights.folder, config.model_type == "deepseek_vl_hybrid", visual_tokens(config)
    )
    family = "DeepseekVLHybrid" if rule.sam else "DeepseekVL"
    config.architectures = [CLASSES[config.model_type].__name__]
    config.dtype = getattr(torch, dtype)
    config.save_pretrained(target)
    GenerationConfig(**special_ids(tokenizer), do_sample=False).save_pretrained(target)
    tokenizer.chat_template = chat_template(default_system_prompt(tokenizer))
    tokenizer.save_pretrained(target)
    settings = read_json(target / "tokenizer_config.json")
    # transformers' processor class asks its tokenizer for the image token by this name
    settings |= {"image_token": IMAGE_TOKEN, "processor_class": f"{family}Processor"}
    # the name that releases before transformers 5 know, too
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    write_json(target / "tokenizer_config.json", settings)
    write_json(target / "preprocessor_config.json", image_settings(rule, family))
    processor = {"processor_class": f"{family}Processor", "num_image_tokens": rule.tokens}
    write_json(target / "processor_config.json", processor)


def image_settings(rule: ImageSettings, family: str) -> dict[str, Any]:
    """An image rule in the keys of transformers' image processors, none of them left to a class's default.

    transformers rounds the short side where the original truncates, so about every second size differs by a pixel row.
    """
    settings: dict[str, Any] = {
        "image_processor_type": f"{family}ImageProcessor",
        "processor_class": f"{family}Processor",
        "size": {"height": rule.siglip.size, "width": rule.siglip.size},
        "image_mean": list(rule.siglip.mean),
        "image_std": list(rule.siglip.std),
        "min_size": rule.min_size,
        "resample": 2
        if rule.sam
        else 3,  # the low branch is resized bilinearly from the padded square
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_pad"), True),
        "rescale_factor": 1 / 255,
    }
    if rule.sam is not None:
        settings |= {
            "high_res_size": {"height": rule.sam.size, "width": rule.sam.size},
            "high_res_image_mean": list(rule.sam.mean),
            "high_res_image_std": list(rule.sam.std),
            "high_res_resample": 3,
        }
    return settings


def write_original_files(weights: Weights, target: Path, dtype: str) -> None:
    """config.json, tokenizer and image settings in the original's form, of a base that never was in it.

    The original has its system prompt in code; the chat template says which one this checkpoint was trained with.
    """
    tokenizer = load_tokenizer(weights.folder)
    rule = read_image_rule(
        weights.folder,
        weights.config.model_type == "deepseek_vl_hybrid",
        visual_tokens(weights.config),
    )
    for name, content in original_settings(weights.config, rule, tokenizer, dtype).items():
        write_json(target / name, content)
    shutil.copyfile(weights.folder / "tokenizer.json", target / "tokenizer.json")
    template = chat_template(default_system_prompt(tokenizer))
    write_whole(
        target / CHAT_TEMPLATE, lambda partial: partial.write_text(template, encoding="utf-8")
    )
