"""The progress bar: loss and tokens per second."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from dsvl_tune.core.types import Batch


class StepProgress(TQDMProgressBar):
    """Lightning's progress bar with the throughput instead of a version number.

    The throughput counts the tokens of this rank's batches since the last refresh, image tokens
    included and padding excluded.
    """

    def __init__(self) -> None:
        # Often enough for a terminal; a log file gets a line only now and then.
        super().__init__(refresh_rate=5 if sys.stdout.isatty() else 100)
        self._tokens = 0
        self._since = time.monotonic()
        self._tokens_per_s = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._tokens += int((batch.branch_ids >= 0).sum())

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        elapsed = time.monotonic() - self._since
        if elapsed > 1.0 and self._tokens:
            self._tokens_per_s = self._tokens / elapsed
            self._tokens = 0
            self._since = time.monotonic()
        return {**metrics, "tokens/s": f"{self._tokens_per_s:,.0f}"}
