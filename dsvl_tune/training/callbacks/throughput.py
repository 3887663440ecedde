"""Speed and memory of a run: tokens and images per second, time of a step, memory in use."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import psutil
import torch

from dsvl_tune.core.types import Batch

SPEED = "speed"
MEMORY = "memory"
MACHINE_VALUES = (f"{SPEED}/", f"{MEMORY}/")
"""Beginnings of the names of logged values that differ from run to run on the same data."""


class Throughput(L.Callback):
    """Logs speed and memory over the steps since the last logged one, over all ranks.

    The time of a micro-batch begins when it is requested from the loader. A micro-batch that
    follows a validation or a save is left out, because that time would be counted as well.
    """

    def __init__(self) -> None:
        self._ended: float | None = None
        self._began = 0.0
        self._totals = torch.zeros(5, dtype=torch.float64)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        # Read first: that waits until a GPU is done with the step, which is no time for data.
        tokens = int((batch.branch_ids >= 0).sum())
        now = time.perf_counter()
        if self._ended is not None:
            data_s, compute_s = self._began - self._ended, now - self._began
            counted = [1, tokens, len(batch.image_index), data_s, compute_s]
            self._totals += torch.tensor(counted, dtype=torch.float64)
        self._ended = now
        loop: Any = trainer.fit_loop.epoch_loop
        logged_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not loop._should_accumulate() and trainer.global_step % logged_every == 0:
            self._log(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._ended = None

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the interval and begin the next one; every rank does so after the same step."""
        sums = trainer.strategy.reduce(self._totals.to(pl_module.device).float(), reduce_op="sum")
        batches, tokens, images, data_s, compute_s = sums.tolist()
        self._totals.zero_()
        ranks = trainer.world_size
        if batches:
            seconds = (data_s + compute_s) / ranks
            step = trainer.accumulate_grad_batches / batches
            pl_module.log(f"{SPEED}/tokens_per_s", tokens / seconds)
            pl_module.log(f"{SPEED}/images_per_s", images / seconds)
            pl_module.log(f"{SPEED}/data_s", data_s * step)
            pl_module.log(f"{SPEED}/compute_s", compute_s * step)
        used = trainer.strategy.reduce(memory_gib(pl_module.device), reduce_op="max").tolist()
        pl_module.log(f"{MEMORY}/rss_gib", used[0])
        if pl_module.device.type == "cuda":
            pl_module.log(f"{MEMORY}/gpu_peak_gib", used[1])


def memory_gib(device: torch.device) -> torch.Tensor:
    """Memory of this process.

    Returns:
        [2] float32 in GiB: resident now, and the most that tensors took on its GPU (0 without one).
    """
    rss = psutil.Process().memory_info().rss
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return torch.tensor([rss, gpu], dtype=torch.float32, device=device) / 2**30
