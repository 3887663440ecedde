"""Lightning's trainer as runs use it: strategy, checkpoint format, callbacks, loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.training.callbacks.forgetting_guard import Floor, FloorCheckpoint, ForgettingGuard
from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.callbacks.last_checkpoint import LastCheckpoint
from dsvl_tune.training.callbacks.monitor_check import (
    NO_MONITOR,
    MonitorCheck,
    check_early_stopping,
    monitor_mode,
)
from dsvl_tune.training.callbacks.plan_check import PlanCheck
from dsvl_tune.training.callbacks.progress_bar import StepProgress
from dsvl_tune.training.callbacks.throughput import Throughput
from dsvl_tune.training.callbacks.tracking import Tracking
from dsvl_tune.training.checkpoints.files import FOLDER
from dsvl_tune.training.checkpoints.sharded_io import RunCheckpointIO
from dsvl_tune.training.distributed.strategy import choose_strategy
from dsvl_tune.training.run.metrics_file import MetricsFile
from dsvl_tune.training.run.stop_request import StopRequest
from dsvl_tune.training.trackers.continued_run import FOLDER as TRACKERS
from dsvl_tune.training.trackers.continued_run import continue_tracker_run
from dsvl_tune.training.trackers.mlflow_names import rename_for_mlflow
from dsvl_tune.training.trackers.run_tensorboard import RunTensorBoard


def training_trainer(
    settings: Mapping[str, Any],
    run_folder: Path,
    stop: StopRequest,
    *,
    monitor: str,
    metrics: Sequence[Metric],
    keep_best: int,
    floor: Floor,
    checkpoint_every_steps: int | None,
    recipe: Mapping[str, Any],
) -> L.Trainer:
    """Make the trainer of a run that trains.

    Args:
        settings: Arguments of Lightning's Trainer.
        run_folder: Folder of the run.
        stop: Tells when the run should stop.
        monitor: Logged name that selects the best run checkpoint, or "last".
        metrics: Metrics of the data module; they say whether higher is better.
        keep_best: Number of best run checkpoints to keep.
        floor: Figures that a best run checkpoint must keep.
        checkpoint_every_steps: Optimizer steps between saves of the last run checkpoint, besides
            those after validations; None adds none.
        recipe: Full settings of the run, for trackers.
    """
    settings = _with_strategy(settings, save_optimizer=True)
    if isinstance(settings.get("val_check_interval"), int):
        # Count steps across epochs; Lightning refuses intervals longer than an epoch otherwise.
        settings["check_val_every_n_epoch"] = None
    callbacks = run_callbacks(
        run_folder,
        stop,
        show_progress=settings.get("enable_progress_bar") is not False,
        monitor=monitor,
        metrics=metrics,
        keep_best=keep_best,
        floor=floor,
        checkpoint_every_steps=checkpoint_every_steps,
        recipe=recipe,
    )
    others = _as_list(settings.get("callbacks"))
    check_early_stopping(others, metrics)
    settings["callbacks"] = [*callbacks, *others]
    settings["logger"] = run_loggers(run_folder, settings.get("logger"))
    settings["default_root_dir"] = run_folder
    return _make_trainer(settings)


def evaluation_trainer(settings: Mapping[str, Any]) -> L.Trainer:
    """Make the trainer of validate, test and predict.

    Args:
        settings: Arguments of Lightning's Trainer.
    """
    settings = _with_strategy(settings, save_optimizer=False)
    if settings.get("enable_progress_bar") is not False:
        settings["callbacks"] = [StepProgress(), *_as_list(settings.get("callbacks"))]
    return _make_trainer({**settings, "logger": named_loggers(settings.get("logger")) or False})


MACHINE_KEYS = ("accelerator", "devices", "num_nodes", "precision", "enable_progress_bar")
"""Arguments of Lightning's Trainer that say where and how the model runs, not what is done."""


def feature_trainer(settings: Mapping[str, Any]) -> L.Trainer:
    """Make the trainer that fills a feature cache: as many processes, each with a whole model.

    Args:
        settings: Arguments of Lightning's Trainer; limits and callbacks of training do not apply.
    """
    of_machine = {key: settings[key] for key in MACHINE_KEYS if key in settings}
    return _make_trainer({**of_machine, "logger": False, "enable_model_summary": False})


def run_callbacks(
    run_folder: Path,
    stop: StopRequest,
    *,
    show_progress: bool,
    monitor: str,
    metrics: Sequence[Metric],
    keep_best: int,
    floor: Floor,
    checkpoint_every_steps: int | None,
    recipe: Mapping[str, Any],
) -> list[Callback]:
    """Make the callbacks of a run: progress, plan check, evaluation, trackers, run checkpoints.

    Args:
        run_folder: Folder of the run.
        stop: Tells when the run should stop.
        show_progress: Whether to show the progress bar.
        monitor: Logged name that selects the best run checkpoint; "last" keeps the last only.
        metrics: Metrics of the data module; they say whether higher is better.
        keep_best: Number of best run checkpoints to keep.
        floor: Figures that a best run checkpoint must keep.
        checkpoint_every_steps: Optimizer steps between saves of the last run checkpoint, besides
            those after validations; None adds none.
        recipe: Full settings of the run, for trackers.
    """
    callbacks: list[Callback] = [StepProgress()] if show_progress else []
    evaluation = HeldOutEvaluation(run_folder)
    guard = ForgettingGuard(evaluation, floor)
    callbacks += [PlanCheck(run_folder), guard, evaluation]
    callbacks += [Tracking(evaluation, recipe), Throughput()]
    if monitor != NO_MONITOR:
        make = partial(FloorCheckpoint, guard) if floor else ModelCheckpoint
        best = make(
            dirpath=run_folder / FOLDER,
            filename="best-{step}",
            monitor=monitor,
            mode=monitor_mode(monitor, metrics),
            save_top_k=keep_best,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # a run resumed after a kill writes the same file again
        )
        callbacks += [MonitorCheck(monitor), best]
    callbacks.append(LastCheckpoint(run_folder, stop, checkpoint_every_steps))
    return callbacks


def run_loggers(run_folder: Path, given: Any) -> list[Logger]:
    """Make the loggers of a run: its `metrics.csv`, and TensorBoard unless others are named.

    A resumed run continues them.

    Args:
        run_folder: Folder of the run.
        given: `trainer.logger`: a logger or several, false for none, or null or true.
    """
    metrics_file = MetricsFile(run_folder)
    if given is None or given is True:
        return [metrics_file, RunTensorBoard(run_folder)]
    loggers = named_loggers(given)
    for number, logger in enumerate(loggers):
        journal = run_folder / TRACKERS / f"{number}-{type(logger).__name__}.jsonl"
        continue_tracker_run(logger, journal)
    return [metrics_file, *loggers]


def named_loggers(given: Any) -> list[Logger]:
    """List the loggers that `trainer.logger` names.

    Args:
        given: A logger or several; null, true and false name none.
    """
    loggers: list[Logger] = [one for one in _as_list(given) if not isinstance(one, bool)]
    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            rename_for_mlflow(logger)
    return loggers


def _make_trainer(settings: Mapping[str, Any]) -> L.Trainer:
    """Make Lightning's trainer.

    Raises:
        UserError: Lightning does not take a value, or lacks a package for it.
    """
    try:
        with configuration_errors():
            return L.Trainer(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise _trainer_error(error) from error


@contextmanager
def configuration_errors() -> Iterator[None]:
    """Turn what Lightning says about its own settings, also once it runs, into one message.

    Raises:
        UserError: Settings that contradict each other or the data.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise _trainer_error(error) from error


def _trainer_error(error: Exception) -> UserError:
    """Make the error for a value that Lightning's Trainer does not take."""
    return UserError(f"trainer: {' '.join(str(error).split())}")


def _with_strategy(settings: Mapping[str, Any], *, save_optimizer: bool) -> dict[str, Any]:
    """Copy the settings with the strategy chosen and the run checkpoint format added."""
    strategy = choose_strategy(
        settings.get("strategy", "auto"), settings["devices"], settings.get("num_nodes", 1)
    )
    plugins = [RunCheckpointIO(optimizer=save_optimizer), *_as_list(settings.get("plugins"))]
    return {**settings, "strategy": strategy, "plugins": plugins}


def _as_list(value: Any) -> list[Any]:
    """Turn what Lightning takes as None, one object or a list of them into a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
