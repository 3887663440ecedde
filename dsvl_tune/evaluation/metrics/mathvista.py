"""The official rule of MathVista (arXiv 2310.02255) without a judge, on its quick path.

Rule: lupantech/MathVista, `evaluation/extract_answer.py` (with --quick_extract) and
`evaluation/calculate_score.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio

CHOICE = "multi_choice"
"""Question type of a row with options."""


class MathVista(Metric):
    """Share of right answers (0..1), and the share that only a judge model could read.

    A row says what is expected by `question_type`, `answer_type`, `choices` and `precision`. Where
    nothing is read of a choice, the official code takes the option that is nearest to nothing.
    """

    name = "mathvista"
    percent = True
    opposite_figures = frozenset({"unread"})

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """A text alone does not say what is expected."""
        raise UnreadableReference("the row has no question_type, expected MathVista's fields")

    def score_answer(self, answer: Answer) -> float:
        if "question_type" not in answer.fields:
            return self.score(answer.text, answer.references)
        _check_references(answer)
        found = normalize(extract(answer.text, answer.fields), answer.fields)
        return float(found is not None and found.strip() in {r.strip() for r in answer.references})

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        unread = [not extract(answer.text, answer.fields) for answer in answers]
        return {**super().counts(answers, scores), "unread": np.array(unread, np.float64)}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {**super().figures(sums), "unread": ratio(sums["unread"], sums["answers"])}


def _check_references(answer: Answer) -> None:
    """Raise where a reference could never be right.

    Raises:
        UnreadableReference: it is none of the choices, or no number where one is expected.
    """
    row = answer.fields
    is_choice = row["question_type"] == CHOICE
    for reference in answer.references:
        if is_choice and reference.strip() not in {choice.strip() for choice in row["choices"]}:
            raise UnreadableReference(f"reference {reference!r}, expected one of {row['choices']}")
        if not is_choice and normalize(reference, row) is None:
            raise UnreadableReference(f"reference {reference!r}, expected {row['answer_type']}")


def extract(text: str, row: Mapping[str, Any]) -> str:
    """What an answer says: a bare value, or 'The answer is "...".'; "" where only a judge could."""
    if row["question_type"] == CHOICE and text in row["choices"]:
        return text
    reader = {"integer": int, "float": float}.get(row["answer_type"])
    if reader is not None:
        try:
            return str(reader(text))
        except (ValueError, OverflowError):
            pass
    stated = re.search(r'The answer is "(.*)"\.', text)
    return stated[1] if stated else ""


def normalize(extracted: str, row: Mapping[str, Any]) -> str | None:
    """What is compared with the answer; None where it is no value of the type."""
    if row["question_type"] == CHOICE:
        return _option(extracted.strip(), row["choices"])
    try:
        if row["answer_type"] == "integer":
            return str(int(float(extracted)))
        if row["answer_type"] == "float":
            return str(round(float(extracted), int(float(row["precision"]))))
    except (ValueError, OverflowError):
        return None
    return extracted


def _option(extracted: str, choices: Sequence[str]) -> str:
    """The option of a letter, else the most similar one."""
    letter = re.search(r"\(([a-zA-Z])\)", extracted)
    if letter:
        extracted = letter[1].upper()
    letters = ascii_uppercase[: len(choices)]
    if len(extracted) == 1 and extracted in letters:
        return choices[letters.index(extracted)]
    return min(choices, key=lambda choice: Levenshtein.distance(extracted, choice))
