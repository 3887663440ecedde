"""What a run prints at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import RelaxedAccuracy
from dsvl_tune.evaluation.run_summary import evaluation_text, next_step_text, summary_text
from dsvl_tune.evaluation.scoring import score_tables

METRICS = [RelaxedAccuracy()]
SUMMARY: dict[str, Any] = {
    "before": {"relaxed_accuracy": 0.25},
    "after": {
        "relaxed_accuracy": 0.5,
        "relaxed_accuracy/count": 0.75,
        "tables/relaxed_accuracy": 0.125,
        "tables/relaxed_accuracy/count": 0.5,
    },
    "majority_baseline": {"relaxed_accuracy": 1 / 3},
    "questions": {"test": 40, "tables": 300},
    "intervals": {"relaxed_accuracy": [0.4, 0.6]},
    "changes": {"relaxed_accuracy": {"difference": 0.25, "low": 0.125, "high": 0.375}},
    "ended": "early stopping: no improvement",
    "steps": 1,
    "trainable_parameters": 1,
    "best_checkpoint": "best.ckpt",
    "wall_s": 1.0,
    "peak_rss_bytes": 1,
    "peak_gpu_bytes": 0,
}


def test_the_table_leaves_out_question_types_of_retention_sets() -> None:
    lines = summary_text(SUMMARY, Path("run"), METRICS).splitlines()
    rows = [line.split() for line in lines if "relaxed_accuracy" in line]
    change = "+25.0 [12.5, 37.5]"
    assert rows == [
        ["relaxed_accuracy", "25.0", "%", "50.0", "%", *change.split(), "33.3", "%"],
        ["relaxed_accuracy/count", "-", "75.0", "%", "-", "-", "-"],
        ["tables/relaxed_accuracy", "-", "12.5", "%", "-", "-", "-"],
    ]
    assert any(line.startswith("test: only 40 scored questions") for line in lines)
    assert "ended by early stopping: no improvement" in lines
    assert max(len(line) for line in lines if "relaxed_accuracy" in line) <= 80


def test_questions_without_answers_make_no_empty_table() -> None:
    text = summary_text({**SUMMARY, "before": {}, "after": {}}, Path("run"), METRICS)
    assert "held-out questions\nnone has an answer" in text and "metric" not in text


@pytest.mark.parametrize(("high", "warned"), [(-0.1, True), (0.1, False)])
def test_a_retention_set_that_fell_is_warned_about(high: float, warned: bool) -> None:
    change = {"difference": -0.4, "low": -0.5, "high": high}
    changes = {**SUMMARY["changes"], "tables/relaxed_accuracy": change}
    text = summary_text({**SUMMARY, "changes": changes}, Path("run"), METRICS)
    assert ("warning: tables got worse (relaxed_accuracy -40.0 points" in text) is warned


def test_the_next_command_can_be_pasted() -> None:
    folder = Path("my data/it's é")
    command = next_step_text(folder).removeprefix("next: ")
    assert shlex.split(command) == ["dsvl-tune", "merge", str(folder)]


def test_validate_prints_a_table_with_intervals_for_each_set() -> None:
    answers = [
        Answer(source="", question_type=kind, question="?", references=("12",), text=text)
        for kind, text in [("count", "12"), ("count", "7"), ("value", "12"), ("value", "12.1")]
    ]
    tables = {name: score_tables(answers, METRICS) for name in ("validation", "general")}
    text = evaluation_text(tables, {"loss": 0.25, "perplexity": 1.284})
    rows = [line.split() for line in text.splitlines() if line]
    assert rows[:2] == [["loss:", "0.2500"], ["perplexity:", "1.2840"]]
    assert rows.count(["relaxed_accuracy", "75.00", "%", "[50.0,", "100.0]"]) == 2
    assert ["general"] in rows
    assert text.count("only 4 scored questions") == 2
