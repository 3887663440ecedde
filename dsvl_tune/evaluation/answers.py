"""A generated answer, and the answers of all processes in the order of the questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)  # not frozen: Lightning rebuilds predictions field by field
class Answer:
    """What a model answered to one prompt.

    Attributes:
        source: file and row of the conversation.
        question_type: its question type ("" without types).
        question: text of the question.
        references: every accepted answer; () for a question without one, which is not scored.
        text: the answer, without outer white space.
        images: names of the images of the prompt, in reading order; of a file, its path.
        prompt: the whole prompt as the model got it, each image as one image token.
        complete: whether it ended by itself and not at the limit of tokens.
        tokens: number of generated tokens, the end token counted.
        seconds: seconds that it took, the time of its batch divided by the answers in it; None
            where it is not recorded.
        number: position of the question in the set that was answered.
        fields: what else of the row a metric may read, e.g. the `options` of a choice; `metric`
            names the row's own metrics.
        scores: score by name of the metric.
    """

    source: str
    question_type: str
    question: str
    references: tuple[str, ...]
    text: str
    images: Sequence[str] = ()
    prompt: str = ""
    complete: bool = True
    tokens: int = 0
    seconds: float | None = None
    number: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """The metrics that the row itself names; () if it leaves them to the data module."""
        named = self.fields.get("metric") or ()
        return (named,) if isinstance(named, str) else tuple(named)

    def to_json(self) -> dict[str, Any]:
        """The line of this answer in a file of answers."""
        line = {
            "source": self.source,
            "images": list(self.images),
            "question_type": self.question_type,
            "question": self.question,
            "prompt": self.prompt,
            "references": list(self.references),
            "answer": self.text,
            "complete": self.complete,
            "tokens": self.tokens,
            **self.fields,
            "scores": dict(self.scores),
        }
        if self.seconds is not None:
            line["seconds"] = round(self.seconds, 4)
        return line


def gather_answers(own: Sequence[Answer]) -> list[Answer]:
    """The answers of all processes in the order of the questions, each question once.

    Texts are gathered, not scores: a metric of a whole corpus is no sum of the processes' parts.
    Every process must call this.

    Args:
        own: answers of this process. Processes may share some questions, so that all have
            equally many.
    """
    from torch import distributed  # here, because scoring stored answers needs no torch

    shares: list[Sequence[Answer]] = [own]
    if distributed.is_available() and distributed.is_initialized():
        shares = [()] * distributed.get_world_size()
        distributed.all_gather_object(shares, list(own))
    return in_question_order(shares)


def in_question_order(shares: Sequence[Sequence[Answer]]) -> list[Answer]:
    """The answers of all shares by their numbers, the first of each number."""
    by_number: dict[int, Answer] = {}
    for share in shares:
        for answer in share:
            by_number.setdefault(answer.number, answer)
    return [by_number[number] for number in sorted(by_number)]
