"""dsvl-tune as `fit` runs it: FinetuneModule, InstructDataModule, Lightning's Trainer."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import lightning as L
from step_bench import ALPHA, BETAS, LEARNING_RATE, RANK, Meter, data_file, draw_adapters

from dsvl_tune.core.family import PartPlan
from dsvl_tune.data.formats.conversations import ConversationRows
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.sampling.batch_sampler import BatchSampler
from dsvl_tune.data.sampling.holdout import group_trees
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.quiet import quiet_lightning


class FileOrder(BatchSampler):
    """The same micro-batches in every epoch."""

    def __init__(self, steps: list[list[int]]) -> None:
        super().__init__(batch_size=1, seed=0)
        self.steps = steps

    @property
    def epoch_batches(self) -> int:
        return len(self.steps)

    def rows_at(self, batch: int) -> list[int]:
        return self.steps[batch % len(self.steps)]

    def settings(self) -> dict[str, int]:
        """State for a run checkpoint; none is written."""
        return {}


class InFileOrder(InstructDataModule):
    """The file's conversations in order, B per step; trees are built within a step only."""

    steps: list[list[int]]

    def check_files(self, split: str, rows: ConversationRows, holds_out: bool) -> dict[str, Rows]:
        stats = self.check(split, rows)
        trees: list[list[int]] = []
        self.steps = []
        for start in range(0, len(stats), self.batch_size):
            together = range(start, min(start + self.batch_size, len(stats)))
            keys = ((i, stats[i].tree if self.message_trees else None) for i in together)
            found = group_trees(keys)
            self.steps.append(list(range(len(trees), len(trees) + len(found))))
            trees += found
        return {split: replace(rows, trees=trees)}

    def sampler(self, rows: Rows) -> FileOrder:
        return FileOrder(self.steps)


class Marks(L.Callback):
    """Record steps, and draw the adapters."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        draw_adapters(pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.meter.mark()

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        self.meter.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.meter.mark()


def train(options: argparse.Namespace, meter: Meter) -> None:
    """Train the steps; the meter records them."""
    checkpoint, sixteen_bit = str(options.model), options.dtype != "float32"
    cached = {}
    if options.feature_cache is not None:  # in full precision, so that losses stay the same
        cached = {"feature_cache": str(options.feature_cache), "feature_dtype": options.dtype}
    module = FinetuneModule(
        checkpoint,
        parts={"language_model": PartPlan("lora", rank=RANK, alpha=ALPHA)},
        lr=LEARNING_RATE,
        warmup_steps=0,
        min_lr_ratio=1.0,
        betas=BETAS,
        dtype=options.dtype,
        **cached,
    )
    data = InFileOrder(
        str(data_file(options)),
        message_trees=options.share_images,
        validation_rows=0,
        verify_images=False,
        checkpoint=checkpoint,
        batch_size=options.batch_size,
        num_workers=options.workers,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed" if sixteen_bit else "32-true",
        max_steps=options.steps,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        log_every_n_steps=1,  # the logged loss is a mean since the last logged step
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Marks(meter)],
    )
    with quiet_lightning():
        trainer.fit(module, datamodule=data)
