"""ANLS, average normalized Levenshtein similarity, of DocVQA and InfographicVQA.

Definition: arXiv 1907.00490, section 4.1. Rule: the official script of the InfographicVQA challenge
(QwenLM/Qwen-VL has a copy: `eval_mm/infographicsvqa_eval.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from dsvl_tune.evaluation.metrics.base import Metric


class ANLS(Metric):
    """Mean similarity of answers to their nearest reference (0..1).

    Compared in lower case with white space collapsed, but divided by the longer length of the texts
    as they are.

    Args:
        threshold: a similarity below it counts as 0.
    """

    name = "anls"
    percent = True

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Similarity to the nearest reference, or 0."""
        similarity = 1 - min(_distance(prediction, reference) for reference in references)
        return similarity if similarity >= self.threshold else 0.0


def _distance(prediction: str, reference: str) -> float:
    """Edits between two texts, divided by the longer length."""
    length = max(len(prediction.upper()), len(reference.upper()))
    if not length:
        return 0.0
    return Levenshtein.distance(_normalize(prediction), _normalize(reference)) / length


def _normalize(text: str) -> str:
    """The text as it is compared."""
    return " ".join(text.strip().lower().split())
