"""Part of `gpu.py`: Hugging Face's Trainer with peft, plain or in a process with other software."""

from __future__ import annotations

import statistics
import tempfile
import time
from importlib import import_module
from typing import Any

import torch
from gpu_step import (
    TOKENS,
    WARMUP,
    Figures,
    batch_of,
    config_of,
    peak_bytes,
    reset_peak,
)
from step_bench import ALPHA, RANK, TARGETS

SOFTWARE = {"transformers + peft": "", "unsloth": "unsloth", "ms-swift": "swift"}
"""Name of a line -> what is imported first. unsloth replaces parts of transformers and peft then;
of ms-swift the adapters are put in by its own function."""


def with_adapters(model: Any, name: str) -> Any:
    """A model with adapters as the software puts them in; all else is frozen.

    Args:
        model: of transformers.
        name: of the line.
    """
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS)
    if name == "ms-swift":
        return import_module("swift").Swift.prepare_model(model, adapters)
    return get_peft_model(model, adapters)


def run(size: str, small: bool, device: torch.device, steps: int, name: str) -> dict[str, Figures]:
    """Steps over one conversation, without padding, with the Trainer's own loss and loop.

    Args:
        size: of the model.
        small: whether a small one is taken.
        device: that is trained on.
        steps: number of steps after the warm-up.
        name: of the line, see `SOFTWARE`.
    """
    if SOFTWARE[name]:
        import_module(SOFTWARE[name])
    from transformers import (
        AutoModelForImageTextToText,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    config = config_of(size, small)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    batch = batch_of(config, torch.device("cpu"), questions=1)
    row = {
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
        "labels": batch.labels,
        **batch.vision_inputs,
    }
    ends: list[float] = []

    class Marks(TrainerCallback):
        """Keeps when each step was done; the peak is that of the steps after the warm-up."""

        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())
            if len(ends) == WARMUP:
                reset_peak(device)

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=WARMUP + steps,
            per_device_train_batch_size=1,
            bf16=True,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=device.type == "cpu",
        )
        Trainer(
            model=with_adapters(model, name),
            args=settings,
            data_collator=lambda rows: rows[0],
            train_dataset=[row] * (WARMUP + steps),  # type: ignore[arg-type]
            callbacks=[Marks()],
        ).train()
    times = [end - begin for begin, end in zip(ends[WARMUP - 1 :], ends[WARMUP:], strict=False)]
    return {name: Figures(TOKENS, statistics.median(times), peak_bytes(device))}
