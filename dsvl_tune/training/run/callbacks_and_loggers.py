"""The callbacks and loggers that every run has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.callbacks.last_checkpoint import LastCheckpoint
from dsvl_tune.training.callbacks.monitor_check import NO_MONITOR, MonitorCheck, monitor_mode
from dsvl_tune.training.callbacks.plan_check import PlanCheck
from dsvl_tune.training.callbacks.progress_bar import StepProgress
from dsvl_tune.training.checkpoints.files import FOLDER
from dsvl_tune.training.run.stop_request import StopRequest


def run_callbacks(
    run_folder: Path,
    *,
    progress: bool,
    stop: StopRequest,
    monitor: str,
    metrics: Sequence[Metric],
    keep_best: int,
    checkpoint_every_steps: int | None,
) -> list[Callback]:
    """Plan check, progress, evaluation, and the checkpoints: the last and the best ones.

    Args:
        run_folder: checkpoints go to `checkpoints/` in it.
        progress: whether to show the progress bar.
        stop: says when the run should stop.
        monitor: logged name that picks the best checkpoint, or "last" to keep only the last one.
        metrics: of the data module; they say in which direction `monitor` is better.
        keep_best: number of best checkpoints to keep.
        checkpoint_every_steps: optimizer steps between the saves of the last checkpoint, besides
            every validation; None adds none.
    """
    callbacks: list[Callback] = [StepProgress()] if progress else []
    callbacks += [PlanCheck(run_folder), HeldOutEvaluation(run_folder)]
    if monitor != NO_MONITOR:
        best = ModelCheckpoint(
            dirpath=run_folder / FOLDER,
            filename="best-{step}",
            monitor=monitor,
            mode=monitor_mode(monitor, metrics),
            save_top_k=keep_best,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # resumed from before a kill, it writes the same file
        )
        callbacks += [MonitorCheck(monitor), best]
    return [*callbacks, LastCheckpoint(run_folder, stop, checkpoint_every_steps)]


def run_loggers(run_folder: Path) -> list[Logger]:
    """CSV files; each start of the run, resumed or not, writes a new `metrics/version_N`."""
    return [CSVLogger(run_folder, name="metrics")]
