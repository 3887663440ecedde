"""Weights, losses and scores that are not finite never end a run as its result."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import STEPS, fit, last, write_recipe

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Batch
from dsvl_tune.training.run.trainer import run_callbacks


class SpoilWeights(L.Callback):
    """Makes a trained weight infinite in some step, as an update that is too large does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            weight = next(p for p in pl_module.parameters() if p.requires_grad)
            weight.data.flatten()[0] = float("inf")


def watch(callback: L.Callback, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = lambda *args, **kept: [callback, *run_callbacks(*args, **kept)]  # noqa: E731
    monkeypatch.setattr("dsvl_tune.training.run.trainer.run_callbacks", callbacks)


@pytest.mark.parametrize("monitor", ["last", "val/loss"])
def test_weights_that_become_infinite_in_the_last_step_are_not_saved(
    monitor: str, hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(SpoilWeights(STEPS), monkeypatch)
    with pytest.raises(UserError, match=f"after step {STEPS}: weights are not finite"):
        fit(write_recipe(tmp_path, hybrid_checkpoint, checkpoint_every_steps=1, monitor=monitor))
    run = tmp_path / "runs" / "run"
    assert last(run)["global_step"] == STEPS - 1
    assert not (run / "summary.json").exists() and not (run / "adapter").exists()


def test_weights_are_blamed_and_not_the_rows_of_the_next_step(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(SpoilWeights(3), monkeypatch)
    recipe = write_recipe(tmp_path, hybrid_checkpoint, model__max_nonfinite_steps=100)
    with pytest.raises(UserError, match="after step 3: weights are not finite") as raised:
        fit(recipe)
    assert "Samples" not in str(raised.value)


def test_a_validation_loss_that_is_not_finite(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SpoilValidation(L.Callback):
        """For losses alone: answers are right again."""

        def on_validation_batch_start(
            self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any
        ) -> None:
            self.embeddings = pl_module.network.get_input_embeddings().weight
            self.whole = self.embeddings.data.clone()
            if isinstance(batch, Batch):
                self.embeddings.data[:] = float("nan")

        def on_validation_batch_end(self, *_: Any) -> None:
            self.embeddings.data.copy_(self.whole)

    watch(SpoilValidation(), monkeypatch)
    with pytest.raises(UserError, match="val/loss is nan"):
        fit(write_recipe(tmp_path, hybrid_checkpoint))


METRIC = """
from dsvl_tune.evaluation.metrics import Metric

class Undefined(Metric):
    name = "undefined"

    def score(self, prediction, references):
        return float("nan")
"""


def test_a_score_that_is_not_finite(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "undefined_metric.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    metrics = ["relaxed_accuracy", "undefined_metric.Undefined"]
    recipe = write_recipe(tmp_path, hybrid_checkpoint, data__init_args__metrics=metrics)
    with pytest.raises(UserError, match="undefined is nan.*metric"):
        fit(recipe)
    sys.modules.pop("undefined_metric")


def test_a_run_whose_every_step_is_skipped_has_no_result(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overflow(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            for weight in pl_module.parameters():
                if weight.grad is not None:
                    weight.grad.fill_(torch.inf)

    watch(Overflow(), monkeypatch)
    recipe = write_recipe(tmp_path, hybrid_checkpoint, model__max_nonfinite_steps=100)
    with pytest.raises(UserError, match=f"all {STEPS} steps were non-finite"):
        fit(recipe)


def test_text_alone_does_not_reach_the_vision_side(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"question": f"How much is {i}?", "answer": str(i)} for i in range(6)]
    for name, part in {"train": rows, "held": rows[:2]}.items():
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    held = str(tmp_path / "held.jsonl")
    data = {
        "class_path": "dsvl_tune.datamodules.InstructDataModule",
        "init_args": {
            "train": str(tmp_path / "train.jsonl"),
            "validation": held,
            "test": held,
            "system_prompt": "",
        },
    }
    model = {"checkpoint": str(hybrid_checkpoint), "preset": "align", "max_new_tokens": 3}
    recipe = write_recipe(tmp_path, hybrid_checkpoint, data=data, model=model)
    with pytest.raises(UserError, match="none of the 6 training rows shows an image"):
        fit(recipe)
    assert not (tmp_path / "runs").exists()
