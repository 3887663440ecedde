"""Saves the newest state of a run, and resumes from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from dsvl_tune.training.checkpoints.files import FOLDER, NEXT, RUN_ID, keep_as_last
from dsvl_tune.training.run.inputs import read_manifest
from dsvl_tune.training.run.metrics_file import MetricsFile
from dsvl_tune.training.run.restoring import check_resumed
from dsvl_tune.training.run.stop_request import RunStopped, StopRequest


class LastCheckpoint(Checkpoint):
    """Saves the last run checkpoint after validations, every few steps, at the end and on a stop.

    Run checkpoints are written between optimizer steps only, because none holds the gradients of a
    step that is not finished. The validation that follows a step belongs to it: a run checkpoint
    that is written before the validation ends marks it as due, and resuming begins with it.
    (Lightning would skip it, and might so miss the best checkpoint.)

    It is a `Checkpoint` because Lightning calls these after all other callbacks: what it saves
    contains their newest state, including the best score.

    Args:
        run_folder: `checkpoints/last.ckpt` and `checkpoints/previous.ckpt` are written there.
        stop: Tells when the run should stop.
        every_steps: Optimizer steps between further saves; None adds none.
    """

    def __init__(self, run_folder: Path, stop: StopRequest, every_steps: int | None) -> None:
        self.run_folder = run_folder
        self.stop = stop
        self.every_steps = every_steps
        self.saved_step = 0
        self.validation_due = False
        self.ended_early = False
        self.metrics_file: MetricsFile | None = None
        self.logged_rows = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "validation_due": self.validation_due,
            "ended_early": self.ended_early,
            "logged_rows": self.metrics_file.rows if self.metrics_file else 0,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Release 0.1 called it owes_validation.
        due = state_dict.get("validation_due", state_dict.get("owes_validation"))
        self.validation_due = bool(due)
        self.ended_early = state_dict["ended_early"]
        self.logged_rows = state_dict.get("logged_rows", 0)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Name the run, so that a checkpoint of another one is not taken for its own."""
        checkpoint[RUN_ID] = read_manifest(self.run_folder).get("run")

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find the best checkpoints of a run whose folder has moved since.

        Lightning would look for them where they were. Those of another run are not this run's.
        """
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and self.is_folder_of(callback):
                state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
                if state and state["dirpath"] != callback.dirpath:
                    state.update(moved_state(state, Path(str(callback.dirpath))))

    def is_folder_of(self, callback: ModelCheckpoint) -> bool:
        """Whether a callback keeps its checkpoints in the run's folder of checkpoints."""
        return callback.dirpath == str((self.run_folder / FOLDER).resolve())

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        check_resumed(trainer)
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        if files:
            self.metrics_file = files[0]
            self.metrics_file.resume(self.logged_rows)
        # Lightning has no hook between restoring a run's state and its first step, and none at all
        # if no step is left. So the run method of its training loop is extended.
        loop: Any = trainer.fit_loop
        loop.run = partial(self._resume_and_train, trainer, train=loop.run)

    def _resume_and_train(self, trainer: L.Trainer, train: Callable[[], None]) -> None:
        """Make up for a validation that is due, then train.

        If no step is left, Lightning's own loop would return without calling `on_train_end`, where
        the result of the run is written.

        Args:
            trainer: Trainer whose state has been restored.
            train: The run method of Lightning's training loop.
        """
        self.stop.install_handlers()
        loop = trainer.fit_loop
        loop.setup_data()
        trainer.should_stop = trainer.should_stop or self.ended_early
        if self.validation_due:
            self._validate(trainer)
        if loop.done:
            self.stop.deferred = False
            loop.on_run_end()
        else:
            train()

    def _validate(self, trainer: L.Trainer) -> None:
        """Run the validation of the step that the run was stopped after."""
        self.validation_due = False
        self.stop.deferred = True
        validation_loop = trainer.fit_loop.epoch_loop.val_loop
        validation_loop.restarting = False
        trainer.validating = True
        validation_loop.run()
        trainer.training = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.deferred = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        fetcher = trainer.fit_loop._data_fetcher
        validation_follows = loop._should_check_val_fx(fetcher)  # type: ignore[arg-type]
        stopped = self._should_stop(trainer)
        save_now = self.every_steps and trainer.global_step % self.every_steps == 0
        if stopped or (save_now and not validation_follows):
            # Lightning logs the step after this hook. The checkpoint has to know of that row.
            trainer._logger_connector.update_train_step_metrics()
            self._save(trainer, validation_due=validation_follows)
        if stopped:
            raise RunStopped(self.stop.exit_code)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        if trainer.sanity_checking or loop._should_accumulate() or not self._should_stop(trainer):
            return
        loop.val_loop.batch_progress.reset()  # on resume it runs from its beginning
        self._save(trainer, validation_due=True)
        raise RunStopped(self.stop.exit_code)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.fit_loop.done:
            return
        self.ended_early = trainer.should_stop
        if self.saved_step != trainer.global_step or self.ended_early:
            self._save(trainer)
        self.stop.deferred = False

    def _should_stop(self, trainer: L.Trainer) -> bool:
        """Whether any rank received a stop request: all ranks have to stop after the same step."""
        return trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False)

    def _save(self, trainer: L.Trainer, validation_due: bool = False) -> None:
        """Write the run checkpoint, and the logged metrics first: a kill would lose their end."""
        self.validation_due = validation_due
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.run_folder / NEXT, weights_only=False)
        if trainer.is_global_zero:
            keep_as_last(self.run_folder)
        self.saved_step = trainer.global_step


def moved_state(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a ModelCheckpoint for the files of the same names in a folder.

    Args:
        state: its paths are in another folder.
        folder: what is not there is left out.
    """

    def moved(path: str) -> str:
        here = folder / Path(path).name
        return str(here) if path and here.exists() else ""

    paths = ("best_model_path", "kth_best_model_path", "last_model_path")
    best = {moved(path): score for path, score in state.get("best_k_models", {}).items()}
    best.pop("", None)
    return {
        **{key: moved(state.get(key, "")) for key in paths},
        "dirpath": str(folder),
        "best_k_models": best,
        "best_model_score": state["best_model_score"] if moved(state["best_model_path"]) else None,
    }
