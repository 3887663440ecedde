"""ROUGE-L (Lin, 2004), as the package rouge_score computes it without stemming."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from dsvl_tune.evaluation.metrics.base import Metric


class RougeL(Metric):
    """F-measure of the longest common subsequence of words (0..1), of the nearest reference.

    Words are runs of a-z and 0-9 in lower case. Texts in other scripts have none and score 0: take
    `cer` for them. Captions are often scored with COCO's own ROUGE-L, which differs.
    """

    name = "rouge_l"
    percent = True

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """F-measure against the nearest reference."""
        found = _words(prediction)
        return max(_f_measure(found, _words(reference)) for reference in references)


def _words(text: str) -> list[str]:
    """The words that are compared."""
    return re.findall("[a-z0-9]+", text.lower())


def _f_measure(found: list[str], expected: list[str]) -> float:
    """Harmonic mean of precision and recall of the common subsequence."""
    common = LCSseq.similarity(found, expected)
    if not common:
        return 0.0
    precision = common / len(found)
    recall = common / len(expected)
    return 2 * precision * recall / (precision + recall)
