"""Character and word error rates, as jiwer 4.0 defines them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric


class ErrorRate(Metric):
    """Edits from the answer to its nearest reference, divided by the length of the reference.

    The figure of a set divides all edits by all lengths. Without outer white space; case and
    punctuation count. It can exceed 1.
    """

    higher_is_better = False
    percent = True

    @abstractmethod
    def units(self, text: str) -> Sequence[str]:
        """What is counted in a text."""

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Error rate against the reference where it is lowest; 1 against an empty one."""
        return _rate(*self._edits(prediction, references))

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        edits = [self._edits(answer.text, answer.references) for answer in answers]
        errors, lengths = np.array(edits, np.float64).T
        return {"errors": errors, "lengths": lengths}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"": _rate(sums["errors"], sums["lengths"])}

    def _edits(self, prediction: str, references: Sequence[str]) -> tuple[int, int]:
        """Edits to the nearest reference, and its length."""
        found = self.units(prediction)
        expected = [self.units(reference) for reference in references]
        edits = [(Levenshtein.distance(found, units), len(units)) for units in expected]
        return min(edits, key=lambda pair: _rate(*pair))


def _rate(errors: float, length: float) -> float:
    """Errors per length; against nothing any error is the rate 1."""
    return errors / length if length else float(errors > 0)


class CharacterErrorRate(ErrorRate):
    """Share of the references' characters that are inserted, deleted or replaced."""

    name = "cer"

    def units(self, text: str) -> Sequence[str]:
        """Characters, blanks counted."""
        return text.strip()


class WordErrorRate(ErrorRate):
    """Share of the references' words that are inserted, deleted or replaced."""

    name = "wer"

    def units(self, text: str) -> Sequence[str]:
        """Words between blanks; a single line break or tab is part of a word."""
        return [word for word in re.sub(r"\s\s+", " ", text).strip().split(" ") if word]
