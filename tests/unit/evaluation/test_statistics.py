"""Intervals and paired changes against distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest
from torchmetrics.text import BLEUScore

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import METRICS
from dsvl_tune.evaluation.metrics.torchmetrics_text import TorchmetricsText
from dsvl_tune.evaluation.scoring import ScoreTable, score_tables
from dsvl_tune.evaluation.statistics import changes, intervals


def tables(right: np.ndarray, types: list[str] | None = None) -> list[ScoreTable]:
    """Exact-match tables of answers that are right or wrong."""
    answers = [
        Answer(
            source=f"rows:{number}",
            question_type=types[number] if types else "",
            question="?",
            references=("yes",),
            text="yes" if is_right else "no",
        )
        for number, is_right in enumerate(right)
    ]
    return score_tables(answers, [METRICS["exact_match"]()])


def test_an_interval_is_that_of_the_binomial_distribution() -> None:
    right = np.arange(400) % 4 > 0  # 75 %: a standard error of 2.165 points
    (interval,) = intervals(tables(right)).values()
    assert interval.low == pytest.approx(0.75 - 1.96 * 0.02165, abs=0.006)
    assert interval.high == pytest.approx(0.75 + 1.96 * 0.02165, abs=0.006)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        (interval,) = intervals(tables(generator.random(80) < 0.6)).values()
        covered += interval.low <= 0.6 <= interval.high
    assert 52 <= covered <= 60


def test_a_change_is_paired() -> None:
    """Both miss the same hard questions: the change is known far better than either figure."""
    hard = np.arange(300) % 2 == 0
    before = hard.copy()
    after = hard.copy()
    after[1:31:2] = True  # 15 questions more
    (change,) = changes(tables(before), tables(after)).values()
    assert change.difference == pytest.approx(0.05)
    assert 0.025 < change.low < 0.035 and 0.065 < change.high < 0.08
    (interval,) = intervals(tables(after)).values()
    assert interval.high - interval.low > 2 * (change.high - change.low)


def test_fields_that_only_one_side_answers_have_no_change() -> None:
    def json_table(*texts: str) -> list[ScoreTable]:
        answers = [
            Answer(source="", question_type="", question="", references=('{"a": 1}',), text=text)
            for text in texts
        ]
        return score_tables(answers, [METRICS["json_fields"]()])

    found = changes(json_table("{}", "{}"), json_table('{"a": 1, "b": 2}', '{"a": 1}'))
    assert found["json_fields.a"] == (1.0, 1.0, 1.0)
    assert "json_fields.b" not in found


def test_types_are_drawn_apart_and_weigh_the_same() -> None:
    right = np.array([True] * 50 + [False, True] * 5)
    found = intervals(tables(right, ["easy"] * 50 + ["hard"] * 10))
    assert set(found) == {"exact_match", "exact_match/easy", "exact_match/hard"}
    assert found["exact_match/easy"] == (1.0, 1.0)
    assert found["exact_match"].low == pytest.approx(0.5 + found["exact_match/hard"].low / 2)


def test_figures_of_sums_and_of_corpora() -> None:
    answers = [
        Answer(source=str(n), question_type="", question="", references=("a red bus",), text=text)
        for n, text in enumerate(["a red bus", "a blue bus", "a bus"] * 10)
    ]
    metrics = [METRICS["wer"](), TorchmetricsText(BLEUScore())]
    found = intervals(score_tables(answers, metrics))
    assert set(found) == {"wer"}
    assert found["wer"].low < 2 / 9 < found["wer"].high


def test_other_questions_have_no_change() -> None:
    one = tables(np.ones(5, bool))
    assert changes(one, tables(np.ones(6, bool))) == {}
