"""Metrics for data that name none, chosen by what the references are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from dsvl_tune.evaluation.metrics.box_iou import read_boxes
from dsvl_tune.evaluation.metrics.json_fields import read_fields
from dsvl_tune.evaluation.metrics.numeric_error import read_number

LOOKED_AT = 1000
"""References that are looked at."""
ANNOTATORS = 8
"""References of a question from which on they are those of annotators who disagree."""
FEW_ANSWERS = 20
"""Most distinct references that count as few answers; each must come five times on average."""
SHORT_WORDS = 10
"""Longest references, in words, that are short answers and no sentences."""

_NUMBER = re.compile(r"[-+]?\W{0,2}[\d.,']*\d\W{0,3}")


class DefaultMetrics(NamedTuple):
    """What to measure.

    Attributes:
        names: of the metrics; the first picks the best checkpoint.
        reason: what the references are.
    """

    names: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        """One line for the user."""
        return f"{', '.join(self.names)} ({self.reason})"


def default_metrics(references: Sequence[Sequence[str]]) -> DefaultMetrics:
    """Choose metrics by the references: JSON, boxes, numbers, one of few answers, or text.

    Args:
        references: accepted answers to each question; questions without one do not count.
    """
    sets = [accepted for accepted in references if accepted][:LOOKED_AT]
    texts = [text.strip() for accepted in sets for text in accepted]
    if not texts:
        return DefaultMetrics((), "no question has a reference")
    distinct = set(texts)
    if all(_is_json_object(text) for text in texts):
        return DefaultMetrics(("json_fields",), "the references are JSON")
    if all(read_boxes(text) for text in texts):
        return DefaultMetrics(("box_iou",), "the references are boxes")
    if {text.rstrip(".").lower() for text in texts} == {"yes", "no"}:
        return DefaultMetrics(("yes_no",), "the references are yes and no")
    if all(re.fullmatch("[A-H]", text) for text in texts):
        return DefaultMetrics(("choice",), "the references are letters of options")
    if median(len(accepted) for accepted in sets) >= ANNOTATORS:
        return DefaultMetrics(("vqa_accuracy",), "each question has the answers of annotators")
    if all(_is_number(text) for text in texts):
        # Not exact_match, which drops punctuation: to it, 24.5 equals 245.
        return DefaultMetrics(("numeric_error",), "the references are numbers")
    if len(distinct) <= min(FEW_ANSWERS, len(texts) / 5):
        reason = f"the references are one of {len(distinct)} answers"
        return DefaultMetrics(("exact_match",), reason)
    if median(len(text.split()) for text in texts) <= SHORT_WORDS:
        return DefaultMetrics(("anls", "exact_match"), "the references are short texts")
    return DefaultMetrics(("rouge_l",), "the references are long texts")


def _is_number(text: str) -> bool:
    """Whether a text is one number, with at most currency, percent or other signs around it."""
    return _NUMBER.fullmatch(text) is not None and read_number(text) is not None


def _is_json_object(text: str) -> bool:
    """Whether a text is a JSON object or array of objects, and no plain list of numbers."""
    return text[:1] in ("{", "[") and "{" in text and read_fields(text) is not None
