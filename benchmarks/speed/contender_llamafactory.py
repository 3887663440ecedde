"""LLaMA-Factory's `sft` stage as a script calls it: its loader, template, data pipeline, trainer.

It knows DeepSeek's text models but neither DeepSeek-VL nor Janus, so the template, the expansion of
an image to its tokens and the names of the vision parts are registered here. The pixels follow
dsvl-tune's rule, as in the Trainer contender, so that losses can be compared. A batch without
images gets a white one from its collator, outside of the attention mask.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import json
import sys
from copy import deepcopy
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

# It imports torchaudio for audio rows alone, and PyPI has that built for CUDA.
audio = ModuleType("torchaudio")
audio.__spec__ = ModuleSpec("torchaudio", None)
sys.modules.setdefault("torchaudio", audio)

import torch
from contender_hf import image_text, pixels_of, processor_of
from hf_trainer import Marks, settings
from llamafactory.data.formatter import EmptyFormatter, StringFormatter
from llamafactory.data.mm_plugin import (
    BasePlugin,
    get_mm_plugin,
    register_mm_plugin,
)
from llamafactory.data.template import register_template
from llamafactory.model.model_utils.visual import _register_composite_model
from llamafactory.train.tuner import run_exp
from step_bench import ALPHA, RANK, Meter, data_file

NAME = "deepseek_vl"
TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


class Images(BasePlugin):
    """Each `<image>` of a message becomes the image's tokens, and images become pixels."""

    def process_messages(
        self,
        messages: list[dict[str, str]],
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        processor: Any,
    ) -> list[dict[str, str]]:
        self._validate_input(processor, images, videos, audios)
        self._validate_messages(messages, images, videos, audios)
        messages = deepcopy(messages)
        image = image_text(processor_of(processor.tokenizer.name_or_path))
        for message in messages:
            message["content"] = message["content"].replace("<image>", image)
        return messages

    def _get_mm_inputs(
        self,
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        processor: Any,
        imglens: list[int] | None = None,
    ) -> dict[str, torch.Tensor]:
        bounds = {
            name: getattr(processor, name) for name in ("image_max_pixels", "image_min_pixels")
        }
        ours = processor_of(processor.tokenizer.name_or_path)
        pixels = [
            pixels_of(image, ours) for image in self._regularize_images(images, **bounds)["images"]
        ]
        return {name: torch.cat([each[name] for each in pixels]) for name in pixels[0]}


def register(checkpoint: Path) -> None:
    """Add the checkpoint's prompt, its images, and the parts of its family."""
    processor = processor_of(checkpoint)
    user, assistant = processor.roles
    register_mm_plugin(NAME, Images)
    register_template(
        name=NAME,
        format_user=StringFormatter(slots=[f"{user}: {{{{content}}}}\n\n{assistant}:"]),
        format_assistant=StringFormatter(slots=[" {{content}}", {"eos_token"}]),
        format_system=StringFormatter(slots=["{{content}}\n\n"]),
        format_prefix=EmptyFormatter(slots=[{"bos_token"}]),
        default_system=processor.default_system,
        mm_plugin=get_mm_plugin(NAME, image_token=processor.image_token),
    )
    for model_type in ("deepseek_vl", "deepseek_vl_hybrid", "janus"):
        _register_composite_model(
            model_type, projector_keys=["aligner"], vision_model_keys=["vision_model", "vqmodel"]
        )


def describe_data(file: Path) -> str:
    """A folder with a dataset_info.json that names the file as "rows"."""
    first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    info = {
        "file_name": str(file.resolve()),
        "formatting": "sharegpt",
        "columns": {"messages": "messages", **({"images": "images"} if "images" in first else {})},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    folder = mkdtemp()
    (Path(folder) / "dataset_info.json").write_text(json.dumps({"rows": info}), encoding="utf-8")
    return folder


def train(options: argparse.Namespace, meter: Meter) -> None:
    """Train the steps; the meter records them."""
    register(options.model)
    run_exp(
        {
            **settings(options),
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(options.model),
            "template": NAME,
            "dataset_dir": describe_data(data_file(options)),
            "dataset": "rows",
            "media_dir": str(options.data),
            "disable_shuffling": True,
            "overwrite_cache": True,
            "finetuning_type": "lora",
            "lora_rank": RANK,
            "lora_alpha": ALPHA,
            "lora_dropout": 0.0,
            "lora_target": TARGETS,
            "disable_gradient_checkpointing": True,
        },
        callbacks=[Marks(meter)],
    )
