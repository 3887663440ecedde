"""Hugging Face Trainer with peft, as its users write it: auto class, LoraConfig, own collator.

The trainer's defaults except for what the benchmark fixes for all contenders (learning rate, betas,
weight decay, clipping, order). The pixels follow dsvl-tune's rule, so that losses can be compared:
transformers' image processor differs by up to one gray level in the 384 px image.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hf_trainer import Marks, settings
from peft import LoraConfig, get_peft_model
from PIL import Image
from step_bench import ALPHA, RANK, TARGETS, Meter, data_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from dsvl_tune.core.family import Processor
from dsvl_tune.families import open_checkpoint

Row = dict[str, Any]
FILE_ORDER = {"train_sampling_strategy": "sequential"}


class Collator:
    """Collate rows of the file: right-padded ids, mask, labels of the answers, pixels."""

    def __init__(self, processor: Processor, root: Path) -> None:
        self.processor = processor
        self.root = root
        self.eos = processor.tokenizer.convert_ids_to_tokens(processor.eos_id)

    def __call__(self, rows: list[Row]) -> dict[str, Tensor]:
        """The batch of several rows: ids, labels and mask [B, T] int64, pixels float32 by name."""
        ids, labels = zip(*(self.tokens(row) for row in rows), strict=True)
        pad = torch.nn.utils.rnn.pad_sequence
        batch = {
            "input_ids": pad(list(ids), batch_first=True, padding_value=self.processor.pad_id),
            "labels": pad(list(labels), batch_first=True, padding_value=-100),
            "attention_mask": pad([torch.ones_like(one) for one in ids], batch_first=True),
        }
        pixels = [self.read_pixels(name) for row in rows for name in row.get("images", ())]
        if pixels:
            batch |= {name: torch.cat([each[name] for each in pixels]) for name in pixels[0]}
        return batch

    def tokens(self, row: Row) -> tuple[Tensor, Tensor]:
        """Ids and labels of a conversation, each [T] int64; answers and end tokens count."""
        image = image_text(self.processor)
        user, assistant = self.processor.roles
        system = self.processor.default_system
        ids, labels, text = [self.processor.bos_id], [-100], f"{system}\n\n" if system else ""
        for message in row["messages"]:
            if message["role"] == "user":
                content = message["content"].strip().replace("<image>", image)
                text += f"{user}: {content}\n\n{assistant}:"
                continue
            for piece, supervised in (
                (text, False),
                (f" {message['content'].strip()}{self.eos}", True),
            ):
                new = self.processor.tokenizer(piece, add_special_tokens=False)["input_ids"]
                ids, labels = ids + new, labels + (new if supervised else [-100] * len(new))
            text = ""
        return torch.tensor(ids), torch.tensor(labels)

    def read_pixels(self, name: str) -> dict[str, Tensor]:
        """The vision inputs of an image file by name, each [1, 3, S, S] float32."""
        with Image.open(self.root / name) as image:
            return pixels_of(image, self.processor)


@cache
def processor_of(folder: Path | str) -> Processor:
    """What dsvl-tune makes tokens and pixels with, for a checkpoint."""
    return open_checkpoint(folder).processor


def image_text(processor: Processor) -> str:
    """The tokens of an image as text, with the marks around it."""
    tokens = processor.family.image_token_ids(processor, None, 1)
    return "".join(processor.tokenizer.convert_ids_to_tokens(tokens))


def pixels_of(image: Image.Image, processor: Processor) -> dict[str, Tensor]:
    """The vision inputs of an image by name, each [1, 3, S, S] float32, by dsvl-tune's rule."""
    family = processor.family
    padded = family.pad_image(image.convert("RGB"), processor, images=1)
    return family.normalize(family.vision_input(padded, processor), processor)


def lora() -> LoraConfig:
    """The adapters' configuration."""
    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, bias="none"
    )


def rows_and_model(options: argparse.Namespace) -> tuple[list[Row], Any, Processor]:
    """Read the rows and load model and processor."""
    rows = [
        json.loads(line)
        for line in data_file(options).read_text(encoding="utf-8").splitlines()
        if line
    ]
    model = AutoModelForImageTextToText.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype)
    )
    return rows, model, processor_of(options.model)


def train(options: argparse.Namespace, meter: Meter) -> None:
    """Train the steps; the meter records them."""
    rows, model, processor = rows_and_model(options)
    Trainer(
        model=get_peft_model(model, lora()),
        args=TrainingArguments(**settings(options), **FILE_ORDER),
        data_collator=Collator(processor, options.data),
        train_dataset=rows,  # type: ignore[arg-type]  # any sequence is accepted
        callbacks=[Marks(meter)],
    ).train()
