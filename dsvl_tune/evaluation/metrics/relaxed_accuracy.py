"""Relaxed accuracy of ChartQA (arXiv 2203.10244, section 5.1), by the rule that papers report.

Rule: google-research/pix2struct, `pix2struct/metrics.py`, `relaxed_correctness`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.evaluation.metrics.base import Metric


class RelaxedAccuracy(Metric):
    """Share of answers that match a reference (0..1): numbers within a tolerance, other text equal.

    The official rule. A text is a number if it is one completely: "1,200" and "$5" are text. A
    percent sign divides by 100, so that "35%" equals "0.35" and not "35". Where the reference is 0
    or either side is text, both must be equal without case.

    Args:
        tolerance: largest relative error of a number. ChartQA: "we allow a minor inaccuracy ...
            within 5% of the gold answer".
    """

    name = "relaxed_accuracy"
    percent = True

    def __init__(self, tolerance: float = 0.05) -> None:
        self.tolerance = tolerance

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the answer matches any of the references, else 0."""
        return float(any(self._matches(prediction, reference) for reference in references))

    def _matches(self, prediction: str, reference: str) -> bool:
        """Whether an answer matches one reference."""
        expected = _number(reference)
        found = _number(prediction)
        if found is None or not expected:
            return prediction.lower() == reference.lower()
        return abs(found - expected) / abs(expected) <= self.tolerance


def _number(text: str) -> float | None:
    """The number that a whole text is ("12", "-3.5", "35%"), or None."""
    try:
        if text.endswith("%"):
            return float(text.rstrip("%")) / 100
        return float(text)
    except ValueError:
        return None
