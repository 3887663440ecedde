"""Batches of text alone under DDP."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.strategies import DDPStrategy


def allow_unused_parameters(trainer: L.Trainer) -> None:
    """Let DDP look which parameters a step used, unless the recipe says otherwise (`ddp_find_unused_parameters_false`).

    A batch of text alone uses nothing of the vision side. Told nothing, DDP waits for gradients that never come where
    another process has an image: the run hangs at its first such step.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
