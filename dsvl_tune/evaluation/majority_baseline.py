"""The floor: what a model that never looks at the image could score."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from dsvl_tune.evaluation.metrics.relaxed_accuracy import accuracy_by_kind


class Answered(NamedTuple):
    """A question with its answer and type."""

    kind: str
    question: str
    answer: str


def constant_answer_floor(known: Iterable[Answered], asked: list[Answered]) -> dict[str, float]:
    """Accuracy of the best constant answers, given all that the question itself says.

    For each question text the answer most frequent in `known` (training data); for a text not met there the most
    frequent one of its type. Counted on other data than it is scored on, because the best constants of the scored
    questions themselves would be flattered by every rare question.

    Returns:
        The metrics of `accuracy_by_kind`, 0..1.
    """
    by_text: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, question, answer in known:
        by_text[kind, question][answer] += 1
        by_kind[kind][answer] += 1

    def best(kind: str, question: str) -> str:
        answers = by_text.get((kind, question)) or by_kind.get(kind)
        return answers.most_common(1)[0][0] if answers else ""

    return accuracy_by_kind(
        [best(row.kind, row.question) for row in asked],
        [row.answer for row in asked],
        [row.kind for row in asked],
    )
