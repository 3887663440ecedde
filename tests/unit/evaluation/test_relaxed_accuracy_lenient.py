"""Lenient relaxed accuracy against an independent implementation in exact arithmetic."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from dsvl_tune.evaluation.metrics.relaxed_accuracy_lenient import LenientRelaxedAccuracy

metric = LenientRelaxedAccuracy()


def expected_match(prediction: str, reference: str) -> bool:
    """The rule in exact fractions instead of floats."""
    try:
        found, expected = Fraction(prediction), Fraction(reference)
    except ValueError:
        return prediction.lower() == reference.lower()
    if expected == 0:
        return found == 0
    return abs(found - expected) <= abs(expected) * Fraction(1, 20)


def test_equals_exact_arithmetic_on_drawn_answers() -> None:
    rng = random.Random(5)
    agreed = 0
    for _ in range(5000):
        target = rng.choice([str(rng.randint(-50, 50)), f"{rng.uniform(-9, 9):.2f}", "yes", "Blue"])
        prediction = rng.choice([target, str(rng.randint(-50, 50)), "no", "blue", "YES"])
        if rng.random() < 0.3 and target not in ("yes", "Blue"):
            prediction = f"{float(target) * rng.uniform(0.93, 1.07):.4f}"
        expected = expected_match(prediction, target)
        assert metric.score(prediction, [target]) == expected, (prediction, target)
        agreed += expected
    assert 500 < agreed < 4500


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("95", "100", 1.0),
        ("94.9", "100", 0.0),
        ("0.01", "0", 0.0),
        ("0", "0", 1.0),
        ("1,000", "1000", 1.0),
        ("35 %", "35", 1.0),
        (" Red ", "red", 1.0),
        ("red", "blue", 0.0),
        ("", "5", 0.0),
        ("nan", "nan", 1.0),
        ("5 and 6", "5", 0.0),
    ],
)
def test_cases(prediction: str, reference: str, score: float) -> None:
    assert metric.score(prediction, [reference]) == score


def test_any_reference_may_match() -> None:
    assert metric.score("blue", ["red", "Blue"]) == 1.0
    assert metric.score("blue", ["red", "green"]) == 0.0


def test_the_tolerance_can_be_set() -> None:
    assert LenientRelaxedAccuracy(tolerance=0.0).score("99", ["100"]) == 0.0
    assert LenientRelaxedAccuracy(tolerance=0.01).score("99", ["100"]) == 1.0
