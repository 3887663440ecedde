"""TRL's SFTTrainer with peft: its defaults without bfloat16 and gradient checkpointing.

Its own collator supports DeepSeek-VL (prompt and completion, with a chat template that ends
answers), but leaves the pixels to transformers' image processor. It gets the collator of the
Trainer contender, so that losses can be compared.
"""

from __future__ import annotations

import argparse

from contender_hf import Collator, Marks, lora, rows_and_model, settings
from datasets import Dataset
from step_bench import Meter, draw_adapters
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer


def train(options: argparse.Namespace, meter: Meter) -> None:
    """Train the steps; the meter records them."""
    rows, model, processor = rows_and_model(options)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **settings(options), dataset_kwargs={"skip_prepare_dataset": True}, max_length=None
        ),
        data_collator=Collator(processor, options.data),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(options.model),
        peft_config=lora(),
        callbacks=[Marks(meter)],
    )
    draw_adapters(trainer.model)
    trainer.train()
