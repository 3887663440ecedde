"""Accuracy of multiple-choice answers, with the reader of the option letter named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from dsvl_tune.core.errors import unknown_name
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio
from dsvl_tune.evaluation.metrics.choice_readers import CHOICE_READERS, Options

LETTERS_WITHOUT_OPTIONS = "ABCDE"
"""Options of a row that names none."""


class Choice(Metric):
    """Share of answers that choose the right option (0..1), and the share that could not be read.

    An answer without a readable letter is wrong. The row's `options` (a list of texts, or texts by
    letter) let a reader find an option by its text; without them the options are A to E.

    Args:
        reader: how the letter is read: vlmevalkit, mmmu, llava or first_character.
    """

    name = "choice"
    percent = True
    opposite_figures = frozenset({"unread"})

    def __init__(self, reader: str = "vlmevalkit") -> None:
        if reader not in CHOICE_READERS:
            raise unknown_name("reader of choice", reader, CHOICE_READERS)
        self.reader = reader

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the answer chooses a right letter, else 0."""
        return self._score(prediction, references, dict.fromkeys(LETTERS_WITHOUT_OPTIONS, ""))

    def score_answer(self, answer: Answer) -> float:
        return self._score(answer.text, answer.references, row_options(answer.fields))

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        read = CHOICE_READERS[self.reader]
        unread = [read(answer.text, row_options(answer.fields)) is None for answer in answers]
        return {**super().counts(answers, scores), "unread": np.array(unread, np.float64)}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {**super().figures(sums), "unread": ratio(sums["unread"], sums["answers"])}

    def _score(self, prediction: str, references: Sequence[str], options: Options) -> float:
        """1 if the answer chooses a right letter of these options, else 0."""
        expected = {_letter(reference, options) for reference in references}
        return float(CHOICE_READERS[self.reader](prediction, options) in expected)


def row_options(fields: Mapping[str, Any]) -> Options:
    """The options of a row by letter.

    Args:
        fields: of the row: `options`, or columns A, B, ...

    Raises:
        UnreadableReference: `options` is no list or mapping of texts.
    """
    given = fields.get("options")
    if given is None:
        given = {letter: fields[letter] for letter in ascii_uppercase if fields.get(letter)}
    if isinstance(given, list) and len(given) <= len(ascii_uppercase):
        given = dict(zip(ascii_uppercase, given, strict=False))
    if not isinstance(given, Mapping) or not set(given) <= set(ascii_uppercase):
        raise UnreadableReference(
            f"options {str(given)[:80]!r}, expected a list of texts or texts by capital letter"
        )
    return {
        letter: str(text) for letter, text in given.items() if text not in (None, "")
    } or dict.fromkeys(LETTERS_WITHOUT_OPTIONS, "")


def _letter(reference: str, options: Options) -> str:
    """The letter that a reference means.

    Raises:
        UnreadableReference: it is neither a letter of the options nor the text of one.
    """
    stripped = reference.strip()
    if stripped in options:
        return stripped
    named = [letter for letter, text in options.items() if text and text.strip() == stripped]
    if len(named) == 1:
        return named[0]
    raise UnreadableReference(
        f"reference {reference[:80]!r} is neither one of the letters {', '.join(options)} nor the "
        "text of one option"
    )
