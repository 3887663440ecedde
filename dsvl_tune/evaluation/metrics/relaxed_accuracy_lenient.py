"""Relaxed accuracy that also reads numbers as people write them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dsvl_tune.evaluation.metrics.base import Metric


class LenientRelaxedAccuracy(Metric):
    """Share of answers that match a reference (0..1): numbers within a tolerance, other text equal.

    More lenient than ChartQA's rule, so its figures compare with nothing published: "1,200" and
    "35 %" are numbers, a percent sign changes no value, and outer white space does not count.

    Args:
        tolerance: largest relative error of a number.
    """

    name = "relaxed_accuracy_lenient"
    percent = True

    def __init__(self, tolerance: float = 0.05) -> None:
        self.tolerance = tolerance

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the answer matches any of the references, else 0."""
        return float(any(self._matches(prediction, reference) for reference in references))

    def _matches(self, prediction: str, reference: str) -> bool:
        """Whether an answer matches one reference.

        A reference of 0 expects exactly 0, because no relative error is defined there.
        """
        expected = _number(reference)
        found = _number(prediction)
        if expected is None or found is None:
            return prediction.strip().casefold() == reference.strip().casefold()
        if expected == 0:
            return found == 0
        return abs(found - expected) / abs(expected) <= self.tolerance


def _number(text: str) -> float | None:
    """The number that a whole text is ("1,200", "35 %", "-3.5"), or None."""
    text = text.strip().removesuffix("%").strip().replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
