"""An objective from another module: its step is normalized by its own weight, not by tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from quiet_trainer import quiet_trainer
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from dsvl_tune.cli.main import main
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.objectives.base import Objective, Sums
from dsvl_tune.training.objectives.supervised import hidden_states, supervised_loss


def row_mean(model: PreTrainedModel, batch: Batch) -> Sums:
    """Every row weighs the same, however many supervised tokens it has."""
    logits = model.lm_head(hidden_states(model, batch)[:, :-1]).transpose(1, 2)
    targets = batch.labels[:, 1:]
    losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORE_INDEX)
    tokens = (targets != IGNORE_INDEX).sum(1).float()
    rows = torch.tensor(float(len(tokens)))
    logged = {"tokens_per_row": torch.stack([tokens.sum(), rows])}
    return Sums((losses.sum(1) / tokens).sum(), rows, logged)


class Scaled:
    """An objective with a setting."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, model: PreTrainedModel, batch: Batch) -> Sums:
        loss, weight, logged = row_mean(model, batch)
        return Sums(self.factor * loss, weight, logged)


class Recorded(FinetuneModule):
    """Keeps the gradients that the optimizer is given."""

    gradients: dict[str, Tensor]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients = gradients(self.network)


def gradients(network: PreTrainedModel) -> dict[str, Tensor]:
    found = network.named_parameters()
    return {name: weight.grad.clone() for name, weight in found if weight.grad is not None}


def charts(checkpoint: Path, batch_size: int) -> ChartsDataModule:
    """Four charts with up to three questions: rows of different lengths."""
    return ChartsDataModule(
        checkpoint=str(checkpoint),
        train_charts=4,
        validation_charts=1,
        questions=3,
        batch_size=batch_size,
    )


def one_step(
    checkpoint: Path, objective: Objective, batch_size: int, accumulate: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients and logged values of one optimizer step over all charts."""
    module = Recorded(str(checkpoint), "none", {"aligner": PartPlan("full")}, objective=objective)
    trainer = quiet_trainer(
        max_steps=1,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=charts(checkpoint, batch_size))
    return module.gradients, {name: float(v) for name, v in trainer.logged_metrics.items()}


def expected_step(checkpoint: Path) -> tuple[dict[str, Tensor], float, float]:
    """Gradients, loss and tokens a row of the mean over the four rows, by plain autograd."""
    model = create_model(open_checkpoint(checkpoint))
    for name, weight in model.named_parameters():
        weight.requires_grad_("aligner" in name)
    data = charts(checkpoint, batch_size=4)
    data.setup("fit")
    (batch,) = (data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader())
    sums = row_mean(model, batch)
    loss = sums.loss / 4
    loss.backward()
    tokens = int((batch.labels != IGNORE_INDEX).sum()) / 4
    return gradients(model), loss.item(), tokens


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (1, 4), (2, 2)])
def test_a_step_is_the_mean_by_the_objectives_own_weight(
    hybrid_checkpoint: Path, batch_size: int, accumulate: int
) -> None:
    expected, loss, tokens = expected_step(hybrid_checkpoint)
    found, logged = one_step(hybrid_checkpoint, row_mean, batch_size, accumulate)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert logged["train/loss"] == pytest.approx(loss, rel=1e-5)
    assert logged["train/tokens_per_row"] == tokens
    by_tokens, _ = one_step(hybrid_checkpoint, supervised_loss, batch_size, accumulate)
    assert any(not torch.allclose(by_tokens[name], found[name], rtol=1e-2) for name in found)


def test_names_that_change_within_a_step_are_refused(hybrid_checkpoint: Path) -> None:
    """Sums are reduced by position, so they would be logged under wrong names."""
    names = iter("ab")

    def changing(model: PreTrainedModel, batch: Batch) -> Sums:
        loss, weight, logged = row_mean(model, batch)
        return Sums(loss, weight, {next(names): logged["tokens_per_row"]})

    with pytest.raises(ValueError, match="before it logged"):
        one_step(hybrid_checkpoint, changing, 2, 2)


@pytest.mark.parametrize(
    "objective",
    [
        "user_objectives.row_mean",
        {"class_path": "user_objectives.Scaled", "init_args": {"factor": 0.5}},
    ],
)
def test_a_recipe_names_a_function_or_a_class(
    objective: object,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("user_objectives.py").write_text(Path(__file__).read_text(encoding="utf-8"), "utf-8")
    recipe = {
        "model": {"checkpoint": str(hybrid_checkpoint), "objective": objective},
        "data": {
            "class_path": "dsvl_tune.datamodules.ChartsDataModule",
            "init_args": {"train_charts": 4, "validation_charts": 1, "test_charts": 1},
        },
        "trainer": {"max_steps": 2, "log_every_n_steps": 1, "val_check_interval": 1},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "fit", "--config", "recipe.yaml"])
    main()
    (path,) = Path("runs").glob("recipe/metrics/*/metrics.csv")
    assert {"train/loss", "train/tokens_per_row", "val/loss"} <= set(
        path.read_text(encoding="utf-8").splitlines()[0].split(",")
    )
    written = yaml.safe_load(Path("runs/recipe/config.yaml").read_text(encoding="utf-8"))
    assert written["model"]["objective"] == objective
