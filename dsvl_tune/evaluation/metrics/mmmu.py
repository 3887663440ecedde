"""The official rule of MMMU (arXiv 2311.16502): MMMU-Benchmark/MMMU, `mmmu/utils/eval_utils.py`.

Choices are read by `read_mmmu`. Open answers are right if one of their candidates is: the ends of
their sentences after words such as "is", and all numbers, rounded to two places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts
from dsvl_tune.evaluation.metrics.choice import Choice

Candidate = str | float

INDICATORS = (
    "could be ",
    "so ",
    "is ",
    "thus ",
    "therefore ",
    "final ",
    "answer ",
    "result ",
)
"""What the interesting end of a sentence follows; in the last one "=", too."""
TRIVIAL = set(":,.!?;'")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


class MMMU(Choice):
    """Share of right answers (0..1): choices if a row has `options`, else open answers.

    The official code guesses a random letter where it reads none; here that is wrong, and counted.
    """

    name = "mmmu"

    def __init__(self) -> None:
        super().__init__("mmmu")

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the open answer matches a reference, else 0."""
        return float(is_right_open(prediction, references))

    def score_answer(self, answer: Answer) -> float:
        if answer.fields.get("options"):
            return super().score_answer(answer)
        return self.score(answer.text, answer.references)

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        counts = super().counts(answers, scores)
        is_choice = np.array([bool(answer.fields.get("options")) for answer in answers])
        return {**counts, "unread": counts["unread"] * is_choice}


class VLMEvalKitMMMU(Choice):
    """MMMU as VLMEvalKit scores it: an open question is a choice of its answer or "Other Answers".

    Rule: open-compass/VLMEvalKit, `vlmeval/dataset/image_mcq.py`, MMMUDataset; several accepted
    answers are one option, written as a list.
    """

    name = "mmmu"

    def __init__(self) -> None:
        super().__init__("vlmevalkit")

    def score_answer(self, answer: Answer) -> float:
        return super().score_answer(_as_choice(answer))

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        return super().counts([_as_choice(answer) for answer in answers], scores)


def _as_choice(answer: Answer) -> Answer:
    """An answer to an open question as one of a choice whose option A is right."""
    if answer.fields.get("options"):
        return answer
    accepted = list(answer.references)
    options = {"A": accepted[0] if len(accepted) == 1 else str(accepted), "B": "Other Answers"}
    return replace(answer, references=("A",), fields={**answer.fields, "options": options})


def is_right_open(prediction: str, references: Sequence[str]) -> bool:
    """Whether a candidate of an open answer matches: texts as substrings, numbers as equals."""
    expected = [one for reference in references for one in _normalize(reference)]
    for candidate in open_candidates(prediction):
        if isinstance(candidate, str):
            if any(isinstance(one, str) and one in candidate for one in expected):
                return True
        elif candidate in expected:
            return True
    return False


def open_candidates(prediction: str) -> list[Candidate]:
    """The texts and numbers that an open answer may mean."""
    ends = _sentence_ends(prediction)
    numbers = [
        number for end in ends for pattern in _NUMBERS for number in re.findall(pattern, end)
    ]
    found = [one for text in [*ends, *numbers] for one in _normalize(text)]
    return list(dict.fromkeys(found))


def _sentence_ends(prediction: str) -> list[str]:
    """The shortest end of each line after an indicator; the whole answer if no line has one."""
    text = prediction.strip().strip(".").lower()
    lines = text.split("\n")
    ends = []
    for number, line in enumerate(lines):
        indicators = (*INDICATORS, "=") if number == len(lines) - 1 else INDICATORS
        tails = [line.split(one)[-1].strip() for one in indicators if one in line]
        end = shortest(tails)
        if end and end not in TRIVIAL:
            ends.append(end)
    return ends or [text]


def shortest(tails: Sequence[str]) -> str:
    """The first of the shortest texts; an empty one gives way to the next, as officially."""
    found = ""
    for tail in tails:
        if not found or len(tail) < len(found):
            found = tail
    return found


def _normalize(text: str) -> list[Candidate]:
    """A number rounded to two places, or text in lower case; a letter needs a blank beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        pass
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
