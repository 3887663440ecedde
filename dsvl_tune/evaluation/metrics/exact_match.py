"""Exact match after a stated normalization."""

from __future__ import annotations

import string
from collections.abc import Sequence

from dsvl_tune.evaluation.metrics.base import Metric

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactMatch(Metric):
    """Share of answers that equal a reference (0..1).

    The default normalization is that of Hugging Face's exact_match with both its options on, as
    lmms-eval uses it: lower case, ASCII punctuation removed. White space counts. Beware of numbers:
    without its point, 24.5 equals 245; `numeric_error` compares values.

    Args:
        ignore_case: compare in lower case.
        ignore_punctuation: remove ASCII punctuation first.
    """

    name = "exact_match"
    percent = True

    def __init__(self, ignore_case: bool = True, ignore_punctuation: bool = True) -> None:
        self.ignore_case = ignore_case
        self.ignore_punctuation = ignore_punctuation

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the answer equals any of the references, else 0."""
        found = self._normalize(prediction)
        return float(any(found == self._normalize(reference) for reference in references))

    def _normalize(self, text: str) -> str:
        """The text as it is compared."""
        if self.ignore_case:
            text = text.lower()
        return text.translate(_WITHOUT_PUNCTUATION) if self.ignore_punctuation else text
