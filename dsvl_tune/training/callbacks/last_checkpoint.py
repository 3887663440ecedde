"""When a run saves its last checkpoint, and how it goes on from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from dsvl_tune.training.checkpoints.files import NEXT, keep_as_last
from dsvl_tune.training.run.stop_request import RunStopped, StopRequest


class LastCheckpoint(Checkpoint):
    """Keeps the run's newest state: after every validation, every so many steps, at the end, and when asked to stop.

    Only between optimizer steps, because the gradients of half a step are in no checkpoint. A step's validation is part
    of it: a checkpoint written between the two says that the validation is owed, and going on begins with it.
    (Lightning would leave it out, and with it perhaps the best checkpoint.)

    It is a `Checkpoint`, which Lightning calls after all other callbacks and in order, so what it writes holds their
    newest state, the best score among it.

    Args:
        run_folder: `checkpoints/last.ckpt` and `previous.ckpt` go there.
        stop: says when the run should stop.
        every_steps: optimizer steps after which to save, besides; None for no such steps.
    """

    def __init__(self, run_folder: Path, stop: StopRequest, every_steps: int | None) -> None:
        self.run_folder, self.stop, self.every_steps = run_folder, stop, every_steps
        self.saved_step = 0
        self.owes_validation = self.ended_early = False

    def state_dict(self) -> dict[str, Any]:
        return {"owes_validation": self.owes_validation, "ended_early": self.ended_early}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.owes_validation, self.ended_early = (
            state_dict["owes_validation"],
            state_dict["ended_early"],
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loop: Any = trainer.fit_loop
        train = loop.run
        loop.run = lambda: self.go_on(trainer, train)

    def go_on(self, trainer: L.Trainer, train: Any) -> None:
        """Run the validation that is owed, then train; where no step is left, go to what follows the last one.

        Lightning's loop returns at once then, without `on_train_end`, where the run's result is written.
        """
        self.stop.listen()
        loop = trainer.fit_loop
        loop.setup_data()
        trainer.should_stop = trainer.should_stop or self.ended_early
        if self.owes_validation:
            self.owes_validation, self.stop.deferred = False, True
            validation = loop.epoch_loop.val_loop
            validation.restarting = False
            trainer.validating = True
            validation.run()
            trainer.training = True
        if loop.done:
            self.stop.deferred = False
            loop.on_run_end()
        else:
            train()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.deferred = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        validation_follows = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        if self.should_stop(trainer):
            self.save(trainer, owes_validation=validation_follows)
            raise RunStopped(self.stop.exit_code)
        if (
            self.every_steps
            and trainer.global_step % self.every_steps == 0
            and not validation_follows
        ):
            self.save(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        if trainer.sanity_checking or loop._should_accumulate() or not self.should_stop(trainer):
            return
        loop.val_loop.batch_progress.reset()  # it will be run from its beginning
        self.save(trainer, owes_validation=True)
        raise RunStopped(self.stop.exit_code)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and not trainer.fit_loop.epoch_loop._should_accumulate():
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.fit_loop.done:
            return
        self.ended_early = trainer.should_stop
        if self.saved_step != trainer.global_step or self.ended_early:
            self.save(trainer)
        self.stop.deferred = False

    def should_stop(self, trainer: L.Trainer) -> bool:
        """Whether the run was asked to stop, in any of its processes: all must stop at the same step."""
        return trainer.strategy.reduce_boolean_decision(self.stop.asked, all=False)

    def save(self, trainer: L.Trainer, owes_validation: bool = False) -> None:
        """Write the checkpoint; the metrics up to it go to disk before, or a kill would lose their last lines."""
        self.owes_validation = owes_validation
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.run_folder / NEXT, weights_only=False)
        if trainer.is_global_zero:
            keep_as_last(self.run_folder)
        self.saved_step = trainer.global_step
