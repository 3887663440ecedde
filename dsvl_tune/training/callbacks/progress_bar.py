"""The progress of a run: a bar on a terminal or in a notebook, a line now and then in a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from dsvl_tune.core.progress import no_bar
from dsvl_tune.core.types import Batch

SECONDS_BETWEEN_LINES = 30.0
"""In a file, besides a line after each validation."""


class StepProgress(TQDMProgressBar):
    """Lightning's progress bar with the throughput instead of a version number.

    The throughput counts the tokens of this rank's batches since the last refresh, image tokens
    included and padding excluded. Where the output is no terminal there is no bar.
    """

    def __init__(self) -> None:
        self._has_bar = not no_bar()
        super().__init__(refresh_rate=5 if self._has_bar else 0)
        self._tokens = 0
        self._since = time.monotonic()
        self._tokens_per_s = 0.0
        self._last_line = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._tokens += int((batch.branch_ids >= 0).sum())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, *arguments)
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._print_line(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING:
            self._print_line(trainer, pl_module)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        elapsed = time.monotonic() - self._since
        if elapsed > 1.0 and self._tokens:
            self._tokens_per_s = self._tokens / elapsed
            self._tokens = 0
            self._since = time.monotonic()
        return {**metrics, "tokens/s": f"{self._tokens_per_s:,.0f}"}

    def _print_line(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print step and figures where there is no bar."""
        if self._has_bar or trainer.sanity_checking:
            return
        self._last_line = time.monotonic()
        figures = self.get_metrics(trainer, pl_module)
        rank_zero_only(print)(f"step {trainer.global_step}: {_figures_text(figures)}", flush=True)


def _figures_text(figures: Mapping[str, Any]) -> str:
    """Names and values on one line."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else f'{float(value):.4g}'}"
        for name, value in figures.items()
    )
