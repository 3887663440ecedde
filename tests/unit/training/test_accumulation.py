"""The loss is one weighted mean over the optimizer step, however it is cut into micro-batches."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from quiet_trainer import quiet_trainer
from reference import assert_trained_alike
from torch import Tensor

from dsvl_tune.core.family import PartPlan
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.training.module import FinetuneModule


def trained_weights(checkpoint: Path, batch_size: int, accumulate: int) -> dict[str, Tensor]:
    """Weights after two optimizer steps over the same eight charts."""
    L.seed_everything(3, verbose=False)
    module = FinetuneModule(
        str(checkpoint), "none", {"language_model": PartPlan("full")}, lr=1e-3, warmup_steps=1
    )
    data = ChartsDataModule(
        checkpoint=str(checkpoint), train_charts=8, validation_charts=1, batch_size=batch_size
    )
    trainer = quiet_trainer(
        max_steps=2,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    return {name: p.detach() for name, p in module.network.named_parameters() if p.requires_grad}


def test_micro_batches_do_not_change_the_step(hybrid_checkpoint: Path) -> None:
    """The trap: a mean of micro-batch means gives short answers more weight."""
    whole = trained_weights(hybrid_checkpoint, batch_size=4, accumulate=1)
    cut = trained_weights(hybrid_checkpoint, batch_size=1, accumulate=4)
    assert_trained_alike(whole, cut, atol=2e-5)
