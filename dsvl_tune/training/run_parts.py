"""The callbacks and loggers that every run has."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from dsvl_tune.training.held_out import HeldOutReport
from dsvl_tune.training.plan_check import PlanCheck
from dsvl_tune.training.progress import StepProgress
from dsvl_tune.training.stopping import StopAfterStep


def run_callbacks(run_folder: Path, best_by: str, progress: bool) -> list[Callback]:
    """Plan check, progress, report, stopping, and checkpoints at every validation: the last, and the best by a metric.

    Two callbacks keep them: `save_last` of one alone would write the last checkpoint only when it is the best.

    Args:
        run_folder: checkpoints go to `checkpoints/` in it.
        best_by: logged metric that picks the best one, or "last" to keep no other than the last.
        progress: whether to show the bar.
    """
    folder = run_folder / "checkpoints"
    best = ModelCheckpoint(
        dirpath=folder,
        filename="best-{step}",
        monitor=best_by,
        mode="min" if "loss" in best_by else "max",
        save_top_k=1,
        save_on_train_epoch_end=False,
    )
    return [
        *([StepProgress()] if progress else []),
        PlanCheck(run_folder),
        HeldOutReport(run_folder),
        StopAfterStep(),
        *([best] if best_by != "last" else []),
        ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=False),
    ]


def run_loggers(run_folder: Path) -> list[Logger]:
    """CSV, a new `metrics/version_N` for each time a run is gone on with."""
    return [CSVLogger(run_folder, name="metrics")]
