"""On a signal or time limit a run saves, exits with a code that says so, and resumes exactly."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from runs import STEPS, assert_equal_runs, fit, last, write_recipe

from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.run.trainer import run_callbacks


class SignalAt(L.Callback):
    """Sends this process a signal in micro-batch `batch`, or in validation batch `batch`."""

    def __init__(self, number: int, batch: int, validation: bool = False) -> None:
        self.number = number
        self.batch = batch
        self.validation = validation

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if not self.validation and trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.validation and trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


def fit_with(
    callback: L.Callback, recipe: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(
            "dsvl_tune.training.run.trainer.run_callbacks",
            lambda *args, **kept: [callback, *run_callbacks(*args, **kept)],
        )
        return fit(recipe, *more)


def test_stopped_wherever_it_may_be_it_comes_to_the_same_bits(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, stopped in a step, before and in a validation, before and after the last one."""
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    run = tmp_path / "runs" / "run"
    # Epochs have 5 micro-batches: steps end with 1, 3, 4, 6, 8, 9, 11, 13, 14, 16, 18; validations
    # follow 3, 7, 11, 15.
    stops: list[tuple[L.Callback, int, int]] = [
        (SignalAt(signal.SIGUSR1, batch=0), 75, 1),
        (SignalAt(signal.SIGTERM, batch=3, validation=True), 75, 2),
        (
            SignalAt(signal.SIGTERM, batch=7, validation=True),
            75,
            5,
        ),  # in the midst of a step, which is ended first
        (SignalAt(signal.SIGINT, batch=11), 130, 7),  # a validation is due and has not begun
        (
            SignalAt(signal.SIGTERM, batch=11, validation=True),
            75,
            7,
        ),  # the one that is owed is stopped once more
        (SignalAt(signal.SIGUSR1, batch=14), 75, 9),  # the end of an epoch
        (SignalAt(signal.SIGTERM, batch=18), 75, STEPS),
    ]
    for callback, code, step in stops:
        assert fit_with(callback, recipe, monkeypatch) == code
        assert last(run)["global_step"] == step
        assert not (run / "summary.json").exists()
    monkeypatch.setattr(HeldOutEvaluation, "load_best", stopping_once(HeldOutEvaluation.load_best))
    assert fit(recipe) == 75  # while the result is made
    assert fit(recipe) == 0
    assert_equal_runs(whole_run, run)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def stopping_once(plain: Callable[..., Any]) -> Callable[..., Any]:
    """`plain`, in the midst of which a signal comes the first time."""
    calls: list[int] = []

    def stopping(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    return stopping


def test_a_run_that_a_callback_ends_has_its_result_and_is_not_trained_on(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopper = {
        "monitor": "val/loss",
        "mode": "min",
        "stopping_threshold": 1000.0,
    }  # at the first validation
    callbacks = [{"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stopper}]
    recipe = write_recipe(tmp_path, hybrid_checkpoint, trainer__callbacks=callbacks)
    with monkeypatch.context() as patch:
        patch.setattr(HeldOutEvaluation, "load_best", stopping_once(HeldOutEvaluation.load_best))
        assert fit(recipe) == 75
    assert fit(recipe) == 0
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == last(tmp_path / "runs" / "run")["global_step"] == 2


def test_the_time_limit_saves_and_the_same_command_resumes(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    assert fit(recipe, "--time_limit_s", "0.001") == 75
    assert last(tmp_path / "runs" / "run")["global_step"] == 1
    assert "start it again to resume" in capsys.readouterr().out
    assert fit(recipe) == 0
    assert_equal_runs(whole_run, tmp_path / "runs" / "run")


@pytest.mark.parametrize("workers", [0, 2])
def test_one_recipe_gives_the_same_bits_twice(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path, workers: int
) -> None:
    assert fit(write_recipe(tmp_path, hybrid_checkpoint, data__init_args__num_workers=workers)) == 0
    assert_equal_runs(whole_run, tmp_path / "runs" / "run")


def test_another_recipe_or_a_finished_run_is_not_resumed(
    hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    runs = tmp_path / "runs"
    stop = ("--time_limit_s", "0.001")
    fit(recipe, *stop)
    fit(recipe, *stop, "--model.lr", "0.001")
    assert "its recipe differs (model.lr)" in capsys.readouterr().out
    assert last(runs / "run-2")["global_step"] == 1
    fit(recipe, *stop, "--model.lr", "0.001", "--resume", "never")
    assert last(runs / "run-3")["global_step"] == 1
    assert fit(recipe, "--ckpt_path", "last", "--trainer.max_steps", "2") == 0  # whatever differs
    assert last(runs / "run-3")["global_step"] == 2
    fit(recipe, *stop, "--trainer.max_steps", "2")
    assert last(runs / "run-4")["global_step"] == 1
    assert last(runs / "run")["global_step"] == 1
