"""Ctrl-C ends a run after the step it is in, with a checkpoint to go on from."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class StopAfterStep(L.Callback):
    """The first SIGINT lets the step finish, saves `last.ckpt` and stops; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self.previous: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.previous = signal.signal(signal.SIGINT, self.ask)

    def ask(self, signum: int, frame: FrameType | None) -> None:
        """Note the wish, and give the next Ctrl-C its usual meaning."""
        self.asked = True
        print("\nstopping after this optimizer step (press Ctrl-C again to stop at once)", flush=True)
        signal.signal(signal.SIGINT, self.previous)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # Only between optimizer steps: gradients of a half-accumulated step are in no checkpoint.
        if not self.asked or trainer.fit_loop._should_accumulate():
            return
        checkpoint = trainer.checkpoint_callback
        assert isinstance(checkpoint, ModelCheckpoint)
        trainer.save_checkpoint(f"{checkpoint.dirpath}/last.ckpt")
        trainer.should_stop = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signal.signal(signal.SIGINT, self.previous)
