"""ms-swift's `sft` pipeline as a script calls it: its loader, template, data pipeline and trainer.

It supports DeepSeek-VL and Janus by their original code alone, which has neither a package nor this
layout. So transformers' models are registered here, with their prompt and images. The pixels follow
dsvl-tune's rule, as in the Trainer contender, so that losses can be compared.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from contender_hf import pixels_of, processor_of
from hf_trainer import Marks, settings
from step_bench import ALPHA, RANK, TARGETS, Meter, data_file
from swift.arguments import SftArguments
from swift.model import ModelGroup, ModelLoader, ModelMeta, register_model
from swift.model.model_arch import MultiModelKeys, register_model_arch
from swift.pipelines.train.sft import SwiftSft
from swift.template import Template, TemplateMeta, register_template
from swift.template.utils import findall
from transformers import AutoModelForImageTextToText, Trainer

NAME = "deepseek_vl_transformers"
IMAGE = "<image_placeholder>"
PIXELS = ("pixel_values", "high_res_pixel_values")


class DeepSeekVLTemplate(Template):
    """Answers begin with a space, and an image has many tokens."""

    image_placeholder: ClassVar[list[str]] = [IMAGE]
    placeholder_tokens: ClassVar[list[str]] = [IMAGE]

    def _swift_prepare_inputs(self, inputs: Any) -> None:
        super()._swift_prepare_inputs(inputs)
        for message in inputs.messages:
            if message["role"] == "assistant":
                message["content"] = f" {message['content']}"

    def _encode(self, inputs: Any) -> dict[str, Any]:
        encoded: dict[str, Any] = super()._encode(inputs)
        if inputs.images:
            ours = processor_of(self.model_info.model_dir)
            pixels = [pixels_of(image, ours) for image in inputs.images]
            encoded.update({name: torch.cat([each[name] for each in pixels]) for name in pixels[0]})
            keys = ("input_ids", "labels", "loss_scale")
            extended = self._extend_tokens(
                *(encoded.get(key) for key in keys),
                findall(encoded["input_ids"], ours.image_token_id),
                lambda number: ours.family.image_token_ids(ours, None, 1),
            )
            encoded.update(zip(keys, extended, strict=True))
        return encoded

    def _data_collator_mm_data(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        collated: dict[str, Any] = super()._data_collator_mm_data(batch)
        for name in PIXELS:
            if found := [row[name] for row in batch if name in row]:
                collated[name] = torch.cat(found)
        return collated


class TransformersLoader(ModelLoader):
    """Load the model by transformers' own class."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self.auto_model_cls = AutoModelForImageTextToText


def register(checkpoint: Path) -> None:
    """Add the checkpoint's prompt, and transformers' classes of its family and its siblings."""
    processor = processor_of(checkpoint)
    user, assistant = processor.roles
    register_template(
        TemplateMeta(
            NAME,
            prefix=[["bos_token_id"]],
            system_prefix=[["bos_token_id"], "{{SYSTEM}}\n\n"],
            default_system=processor.default_system,
            prompt=[f"{user}: {{{{QUERY}}}}\n\n{assistant}:"],
            chat_sep=[["eos_token_id"]],
            suffix=[["eos_token_id"]],
            template_cls=DeepSeekVLTemplate,
        )
    )
    register_model_arch(
        MultiModelKeys(
            NAME,
            language_model=["model.language_model", "lm_head"],
            aligner="model.aligner",
            vision_tower=["model.vision_model", "model.high_res_vision_model"],
        )
    )
    register_model(
        ModelMeta(
            NAME,
            [ModelGroup([])],
            TransformersLoader,
            template=NAME,
            model_arch=NAME,
            is_multimodal=True,
            architectures=[
                "DeepseekVLForConditionalGeneration",
                "DeepseekVLHybridForConditionalGeneration",
                "JanusForConditionalGeneration",
            ],
        )
    )


class MarkedSft(SwiftSft):
    """The pipeline, with a callback in its trainer."""

    def __init__(self, args: SftArguments, meter: Meter) -> None:
        super().__init__(args)
        self.meter = meter

    def train(self, trainer: Trainer) -> Any:
        trainer.add_callback(Marks(self.meter))
        return super().train(trainer)


def train(options: argparse.Namespace, meter: Meter) -> None:
    """Train the steps; the meter records them."""
    register(options.model)
    os.environ["ROOT_IMAGE_DIR"] = str(options.data)  # what image paths are relative to
    args = SftArguments(
        **settings(options),
        model=str(options.model),
        model_type=NAME,
        template=NAME,
        torch_dtype=options.dtype,
        dataset=[str(data_file(options))],
        split_dataset_ratio=0.0,
        dataset_shuffle=False,
        train_dataloader_shuffle=False,
        load_from_cache_file=False,
        gradient_accumulation_steps=1,
        tuner_type="lora",
        lora_rank=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_regex=TARGETS,
        vit_gradient_checkpointing=False,
        create_checkpoint_symlink=False,
    )
    MarkedSft(args, meter).main()
