"""The callbacks and loggers that every run has."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.callbacks.last_checkpoint import LastCheckpoint
from dsvl_tune.training.callbacks.plan_check import PlanCheck
from dsvl_tune.training.callbacks.progress_bar import StepProgress
from dsvl_tune.training.checkpoints.files import FOLDER
from dsvl_tune.training.run.stop_request import StopRequest


def run_callbacks(
    run_folder: Path,
    progress: bool,
    stop: StopRequest,
    monitor: str,
    keep_best: int,
    checkpoint_every_steps: int | None,
) -> list[Callback]:
    """Plan check, progress, report, and checkpoints: the last one, and the best by a metric.

    Args:
        run_folder: checkpoints go to `checkpoints/` in it.
        progress: whether to show the bar.
        stop: says when the run should stop.
        monitor: logged metric that picks the best one, or "last" to keep no other than the last.
        keep_best: how many of the best stay.
        checkpoint_every_steps: optimizer steps between the last ones, besides validations; None for no more.
    """
    best = ModelCheckpoint(
        dirpath=run_folder / FOLDER,
        filename="best-{step}",
        monitor=monitor,
        mode="min" if "loss" in monitor else "max",
        save_top_k=keep_best,
        save_on_train_epoch_end=False,
        enable_version_counter=False,  # a run that goes on from before a kill writes the same file again
    )
    return [
        *([StepProgress()] if progress else []),
        PlanCheck(run_folder),
        HeldOutEvaluation(run_folder),
        *([best] if monitor != "last" else []),
        LastCheckpoint(run_folder, stop, checkpoint_every_steps),
    ]


def run_loggers(run_folder: Path) -> list[Logger]:
    """CSV, a new `metrics/version_N` for each time a run is gone on with."""
    return [CSVLogger(run_folder, name="metrics")]
