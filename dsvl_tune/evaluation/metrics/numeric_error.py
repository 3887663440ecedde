"""Relative error of numbers, as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio

_NUMBER = re.compile(r"[-+]?(?:\d[\d,.']*\d|\d)(?:[eE][-+]?\d+)?(?![\d])|[-+]?\.\d+")
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?|\d{1,3}('\d{3})+(\.\d+)?")
_GROUPED_BY_POINTS = re.compile(r"\d{1,3}(\.\d{3})+,\d+|\d{1,3}(\.\d{3}){2,}")


class NumericError(Metric):
    """Mean relative error of numbers, each at most 1; the share that is exact; and that is unread.

    The number of an answer is the only one in its text, with its sign, thousands separators and
    exponent; words, units, currency and percent signs around it do not count ("$1,200" is 1200,
    "35 %" is 35). An answer with no number or several counts as an error of 1. Where the reference
    is 0, any other number does.
    """

    name = "numeric_error"
    higher_is_better = False
    percent = True
    opposite_figures = frozenset({"exact"})

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Relative error against the nearest reference, 0..1."""
        expected = [_expected(reference) for reference in references]
        found = read_number(prediction)
        return 1.0 if found is None else min(_error(found, value) for value in expected)

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        unread = [read_number(answer.text) is None for answer in answers]
        return {
            **super().counts(answers, scores),
            "exact": np.float64(np.asarray(scores) == 0),
            "unread": np.array(unread, np.float64),
        }

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {
            **super().figures(sums),
            "exact": ratio(sums["exact"], sums["answers"]),
            "unread": ratio(sums["unread"], sums["answers"]),
        }


def read_number(text: str) -> float | None:
    """The only number in a text, or None if there is none or more than one.

    Example:
        >>> read_number("about $1,234.50"), read_number("3 of 4")
        (1234.5, None)
    """
    found = _NUMBER.findall(text.replace("\u2212", "-"))
    return _value(found[0]) if len(found) == 1 else None


def _value(text: str) -> float | None:
    """The value of a number with its separators."""
    digits = text.lstrip("+-")
    if _GROUPED_BY_POINTS.fullmatch(digits):
        text = text.replace(".", "").replace(",", ".")
    elif _GROUPED.fullmatch(digits):
        text = text.replace(",", "").replace("'", "")
    elif digits.count(",") == 1 and "." not in digits:
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _expected(reference: str) -> float:
    """The number of a reference.

    Raises:
        UnreadableReference: it has none, or several.
    """
    value = read_number(reference)
    if value is None:
        raise UnreadableReference(f"reference {reference[:80]!r}, expected a text with one number")
    return value


def _error(found: float, expected: float) -> float:
    """Relative error, at most 1."""
    if found == expected:
        return 0.0
    return min(1.0, abs(found - expected) / abs(expected)) if expected else 1.0
