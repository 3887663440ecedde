"""What all trainers that build on Hugging Face's Trainer are given, whatever software they are of.

It imports nothing of dsvl-tune, so that it runs in the environments of other trainers.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from step_bench import BETAS, LEARNING_RATE, Meter, draw_adapters
from transformers import TrainerCallback


class Marks(TrainerCallback):
    """Draw the adapters, and record steps and losses."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(self, *arguments: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        draw_adapters(model)
        self.meter.mark()

    def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
        self.meter.mark()

    def on_log(self, *arguments: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.meter.losses.append(float(logs["loss"]))


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Training arguments that all contenders share; nothing is saved or reported."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": options.steps,
        "save_strategy": "no",
        "report_to": "none",
        "per_device_train_batch_size": options.batch_size,
        "dataloader_num_workers": options.workers,
        "remove_unused_columns": False,
        "use_cpu": True,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "logging_steps": 1,
        "disable_tqdm": True,
        "bf16": options.dtype != "float32",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
