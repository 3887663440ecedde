"""The forgetting guard: floors, warnings during training, and early stopping's direction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from runs import fit, write_recipe

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.held_out_sets import SetAnswers, sets_figures
from dsvl_tune.evaluation.metrics import find_metrics
from dsvl_tune.evaluation.predictions import write_answers
from dsvl_tune.evaluation.scoring import score_tables
from dsvl_tune.report.run_record import read_curves
from dsvl_tune.training.callbacks.forgetting_guard import (
    FloorCheckpoint,
    ForgettingGuard,
    broken_floors,
)
from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.callbacks.monitor_check import check_early_stopping

PROSE = "The quick brown fox jumps over the lazy dog. " * 60


def run_of(folder: Path, checkpoint: Path, **changes: Any) -> dict[str, Any]:
    """The summary of two steps that make the language model worse at prose, and a validation."""
    (folder / "prose.txt").write_text(PROSE)
    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(8)]
    (folder / "general.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sets = {"prose": str(folder / "prose.txt"), "general": str(folder / "general.jsonl")}
    settings = {
        "data__init_args__heldout": sets,
        "model__lr": 3.0,
        "trainer__max_steps": 2,
        "monitor": "val/loss",
        **changes,
    }
    assert fit(write_recipe(folder, checkpoint, **settings)) == 0
    summary: dict[str, Any] = json.loads((folder / "runs" / "run" / "summary.json").read_text())
    return summary


def test_a_run_below_its_floor_says_so_and_keeps_the_last_step(
    tmp_path: Path, hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_of(tmp_path, hybrid_checkpoint, floor={"val/prose/perplexity": 0.5})
    assert summary["best_checkpoint"] == "last"
    printed = capsys.readouterr().out
    assert "step 2: val/prose/perplexity is" in printed
    assert "step 2: prose got worse than the base model: perplexity +" in printed
    assert "warning: no validation kept the floor (val/prose/perplexity)" in printed
    assert "warning: prose got worse (perplexity +" in printed


def answered(*texts: str) -> list[Answer]:
    """Answers to questions that "1" is right for."""
    return [
        Answer(
            source=f"row {number}",
            question_type="",
            question=f"Question {number}?",
            references=("1",),
            text=text,
            number=number,
        )
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize(("points", "is_broken"), [(24.9, True), (25.1, False)])
def test_a_floor_compares_the_questions_that_a_validation_answered(
    tmp_path: Path, points: float, is_broken: bool
) -> None:
    """The base model is right about 0, 2, 4 and 6, of which the validation asks four."""
    guard = ForgettingGuard(HeldOutEvaluation(tmp_path), {"val/general/exact_match": points})
    before = answered(*"10101010")
    write_answers(guard.evaluation.answers_file("general", "before"), before)
    metrics = {"general": find_metrics(["exact_match"])}
    asked = [
        replace(before[number], text=text)
        for number, text in zip((0, 2, 4, 5), "1100", strict=True)
    ]
    now = {"general": score_tables(asked, metrics["general"])}
    was = guard.tables_before(now, metrics)
    assert sets_figures(was) == {"general/exact_match": 0.75}
    lines = broken_floors(guard.floor, was, now)
    assert bool(lines) is is_broken
    assert all(
        "is 50.0 %, more than 24.9 points worse than the base model's 75" in one for one in lines
    )


def test_a_figure_that_is_better_lower_has_its_floor_above() -> None:
    floor = {"val/general/numeric_error": 10.0}
    metrics = find_metrics(["numeric_error"])
    base = {"general": score_tables(answered("1", "1"), metrics)}
    worse = {"general": score_tables(answered("1", "2"), metrics)}
    assert len(broken_floors(floor, base, worse)) == 1
    assert broken_floors(floor, worse, base) == []


def test_answers_of_the_base_model_that_are_gone_break_no_floor_silently() -> None:
    now = {"general": score_tables(answered("1"), find_metrics(["exact_match"]))}
    with pytest.raises(UserError, match="its answers in predictions/ are gone"):
        broken_floors({"val/general/exact_match": 1.0}, {}, now)


def test_only_a_checkpoint_above_the_floor_is_among_the_best(tmp_path: Path) -> None:
    guard = ForgettingGuard(HeldOutEvaluation(tmp_path), {})
    best = FloorCheckpoint(guard, monitor="val/loss", save_top_k=1)
    for is_kept in (True, False):
        guard.is_kept = is_kept
        assert best.check_monitor_top_k(L.Trainer(logger=False), torch.tensor(0.5)) is is_kept


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"floor": {"val/prose/anls": 1}}, "floor: val/prose/anls: no figure of a held-out set"),
        ({"floor": {"val/relaxed_accuracy": 1}}, "Expected .*, val/prose/perplexity"),
        ({"floor": {"val/prose/perplexity": 1}, "monitor": "last"}, "no checkpoint is selected"),
        ({"floor": {"val/prose/perplexity": -1}}, "expected a number from 0"),
        ({"data__init_args__eval_seconds": 0}, "expected a number above 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    tmp_path: Path, hybrid_checkpoint: Path, changes: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(UserError, match=fragment):
        run_of(tmp_path, hybrid_checkpoint, **changes)
    assert not list(tmp_path.glob("runs/*/summary.json"))


def test_a_validation_out_of_time_says_what_it_left_out(
    tmp_path: Path, hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"eval_seconds": 0.000001, "eval_batch_size": 3}
    changes = {f"data__init_args__{key}": value for key, value in limits.items()}
    summary = run_of(tmp_path, hybrid_checkpoint, **changes)
    assert "general 3 of 8" in capsys.readouterr().out
    curves = read_curves(tmp_path / "runs" / "run" / "metrics")
    assert curves["val/general/questions"] == [(1, 3.0)]
    assert summary["questions"]["general"] == 8  # before and after: all of them


def test_every_set_gets_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    answers = SetAnswers(["one", "two", "three"], seconds=9.0)
    batches = {}
    for name, seconds in (("one", 1.0), ("two", 5.0), ("three", 0.5)):
        batches[name] = 0
        while not answers.is_out_of_time(name):
            batches[name] += 1
            clock[0] += seconds
    # One has 3 s; two half of the 5 s that are left; three what two has left it.
    assert batches == {"one": 4, "two": 1, "three": 1}


@pytest.mark.parametrize(
    ("monitor", "wrong", "right"),
    [
        ("val/relaxed_accuracy", "min", "max"),
        ("val/loss", "max", "min"),
        ("val/prose/perplexity", "max", "min"),
    ],
)
def test_early_stopping_waits_for_the_better(monitor: str, wrong: str, right: str) -> None:
    metrics = find_metrics(["relaxed_accuracy", "perplexity"])
    check_early_stopping([EarlyStopping(monitor, mode=right)], metrics)
    with pytest.raises(UserError, match=f"Set mode: {right}"):
        check_early_stopping([EarlyStopping(monitor, mode=wrong)], metrics)
