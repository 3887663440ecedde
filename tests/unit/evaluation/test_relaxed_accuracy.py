"""Relaxed accuracy against an independent implementation, and the floor against counting by hand."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from dsvl_tune.evaluation.majority_baseline import Answered, constant_answer_floor
from dsvl_tune.evaluation.metrics.relaxed_accuracy import (
    RelaxedAccuracy,
    accuracy_by_kind,
    relaxed_match,
)


def reference(prediction: str, target: str) -> bool:
    """The rule in exact fractions instead of floats."""
    try:
        got, wanted = Fraction(prediction), Fraction(target)
    except ValueError:
        return prediction.lower() == target.lower()
    return got == wanted if wanted == 0 else abs(got - wanted) <= abs(wanted) * Fraction(1, 20)


def test_equals_exact_arithmetic_on_drawn_answers() -> None:
    rng = random.Random(5)
    agreed = 0
    for _ in range(5000):
        target = rng.choice([str(rng.randint(-50, 50)), f"{rng.uniform(-9, 9):.2f}", "yes", "Blue"])
        prediction = rng.choice([target, str(rng.randint(-50, 50)), "no", "blue", "YES"])
        if rng.random() < 0.3 and target not in ("yes", "Blue"):
            prediction = f"{float(target) * rng.uniform(0.93, 1.07):.4f}"
        expected = reference(prediction, target)
        assert relaxed_match(prediction, target) == expected, (prediction, target)
        agreed += expected
    assert 500 < agreed < 4500


@pytest.mark.parametrize(
    ("prediction", "target", "right"),
    [
        ("95", "100", True),
        ("94.9", "100", False),
        ("0.01", "0", False),
        ("0", "0", True),
        ("1,000", "1000", True),
        ("35 %", "35", True),
        (" Red ", "red", True),
        ("red", "blue", False),
        ("", "5", False),
        ("nan", "nan", True),
        ("5 and 6", "5", False),
    ],
)
def test_cases(prediction: str, target: str, right: bool) -> None:
    assert relaxed_match(prediction, target) is right


def test_the_class_sums_over_updates() -> None:
    metric = RelaxedAccuracy()
    metric.update(["1", "2"], ["1", "3"])
    metric.update(["x"], ["x"])
    assert float(metric.compute()) == pytest.approx(2 / 3)


def test_the_mean_is_over_types_not_questions() -> None:
    metrics = accuracy_by_kind(["1"] * 9 + ["2"], ["1"] * 9 + ["3"], ["easy"] * 9 + ["hard"])
    assert metrics == {
        "relaxed_accuracy": 0.5,
        "relaxed_accuracy/easy": 1.0,
        "relaxed_accuracy/hard": 0.0,
    }


def test_floor_uses_what_the_question_says() -> None:
    known = [Answered("over", "over 20?", "yes")] * 3 + [Answered("over", "over 80?", "no")] * 2
    asked = [
        Answered("over", f"over {limit}?", answer)
        for limit, answer in ((20, "yes"), (80, "no"), (50, "no"))
    ]
    assert constant_answer_floor(known, asked)["relaxed_accuracy"] == pytest.approx(2 / 3)
