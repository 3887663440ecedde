"""TRL's SFTTrainer with peft: its defaults without bfloat16 and gradient checkpointing.

Its own collator supports DeepSeek-VL (prompt and completion, with a chat template that ends
answers), but leaves the pixels to transformers' image processor. It gets the collator of the
Trainer contender, so that losses can be compared.
"""

from __future__ import annotations

import argparse

from contender_hf import FILE_ORDER, Collator, lora, rows_and_model
from datasets import Dataset
from hf_trainer import Marks, settings
from step_bench import Meter
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer


def train(options: argparse.Namespace, meter: Meter) -> None:
    """Train the steps; the meter records them."""
    rows, model, processor = rows_and_model(options)
    SFTTrainer(
        model=model,
        args=SFTConfig(
            **settings(options),
            **FILE_ORDER,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
        data_collator=Collator(processor, options.data),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(options.model),
        peft_config=lora(),
        callbacks=[Marks(meter)],
    ).train()
