"""The progress bar: loss, and tokens a second."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from dsvl_tune.core.types import Batch


class StepProgress(TQDMProgressBar):
    """Lightning's bar with the throughput since the last refresh instead of a version number.

    Tokens are those of the batch without padding, image tokens counted.
    """

    def __init__(self) -> None:
        # A terminal is drawn ten times a second at most; a log file gets a line only now and then.
        super().__init__(refresh_rate=5 if sys.stdout.isatty() else 100)
        self.tokens, self.since, self.rate = 0, time.monotonic(), 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.tokens += int((batch.branch_ids >= 0).sum())

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        elapsed = time.monotonic() - self.since
        if elapsed > 1.0 and self.tokens:
            self.rate = self.tokens / elapsed
            self.tokens, self.since = 0, time.monotonic()
        return {**metrics, "tokens/s": f"{self.rate:,.0f}"}
