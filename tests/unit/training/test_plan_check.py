"""The plan is checked after the first step: a planted fault of either kind is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from quiet_trainer import quiet_trainer

from dsvl_tune.core.family import PartPlan
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.training.callbacks.plan_check import PlanCheck
from dsvl_tune.training.module import FinetuneModule


class Fault(L.Callback):
    """Changes a frozen tensor, or puts a trained one back, behind the optimizer's back."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.kept: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.kept = {name: p.detach().clone() for name, p in pl_module.network.named_parameters()}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        for name, parameter in pl_module.network.named_parameters():
            frozen = self.kind == "frozen" and name == "lm_head.weight"
            trained = self.kind == "trained" and name == "model.high_res_vision_alpha"
            with torch.no_grad():
                if frozen:
                    parameter[0, 0] += 1e-3
                if trained:
                    parameter.copy_(self.kept[name])


def train(checkpoint: Path, folder: Path, fault: str, steps: int = 3) -> None:
    parts = {"sam_neck_hd": PartPlan("full"), "language_model": PartPlan("lora")}
    module = FinetuneModule(str(checkpoint), "none", parts, lr=1e-3, warmup_steps=1)
    data = ChartsDataModule(
        checkpoint=str(checkpoint), train_charts=6, validation_charts=1, batch_size=2
    )
    trainer = quiet_trainer(
        max_steps=steps,
        limit_val_batches=0,
        callbacks=[Fault(fault), PlanCheck(folder)],
    )
    trainer.fit(module, datamodule=data)


def test_exactly_the_planned_tensors_moved(
    hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(hybrid_checkpoint, tmp_path, "none")
    printed = capsys.readouterr().out
    assert "plan check after the first step" in printed
    assert "never updated" not in printed
    assert (tmp_path / "plan.json").is_file()


def test_adapters_whose_b_has_just_left_zero_are_no_alarm(
    hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(hybrid_checkpoint, tmp_path, "none", steps=1)
    assert "never updated" not in capsys.readouterr().out


def test_a_frozen_tensor_that_moved(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"freezes lm_head, but lm_head.weight changed"):
        train(hybrid_checkpoint, tmp_path, "frozen")


def test_a_planned_tensor_that_did_not_move(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="alpha, but the optimizer did not update it"):
        train(hybrid_checkpoint, tmp_path, "trained")


def test_the_network_is_in_training_mode_from_the_start(hybrid_checkpoint: Path) -> None:
    """The trap: transformers loads in eval mode, Lightning keeps it, adapters get no dropout."""
    module = FinetuneModule(str(hybrid_checkpoint), lora_dropout=0.5)
    module.configure_model()
    assert all(part.training for part in module.network.modules())
