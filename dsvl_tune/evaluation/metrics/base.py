"""What a metric is: a score for each answer, and the figures of a set of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.answers import Answer

Counts = Mapping[str, NDArray[np.float64]]
"""Named counts of each answer, [A] each, whose sums over a set give its figures."""


class UnreadableReference(ValueError):
    """A reference is not what a metric expects; the message says what was expected."""


class Metric(ABC):
    """Compares answers with their accepted answers.

    A subclass in any importable module is a metric; a recipe names it by class path::

        data:
          init_args:
            metrics: [exact_match, my_module.StartsWith]

    `score` is enough for a metric whose figure is the mean of its scores. One whose figure is
    another function of sums, or that has several figures, overrides `counts` and `figures`; one
    that is neither overrides `aggregate`.

    Attributes:
        name: under which figures are logged (`val/NAME`), stored and monitored.
        higher_is_better: direction in which a checkpoint is better.
        percent: whether figures are printed in percent (of scores between 0 and 1).
        opposite_figures: further figures that are better in the other direction.
    """

    name: str
    higher_is_better: bool = True
    percent: bool = False
    opposite_figures: frozenset[str] = frozenset()

    @abstractmethod
    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Score of one answer.

        Args:
            prediction: the generated answer, without outer white space.
            references: accepted answers, at least one.

        Raises:
            UnreadableReference: a reference is not what the metric expects.
        """

    def score_answer(self, answer: Answer) -> float:
        """Score of one answer; overridden by metrics that read further fields of its row."""
        return self.score(answer.text, answer.references)

    def score_answers(self, answers: Sequence[Answer]) -> list[float]:
        """Score of each answer; overridden where a score depends on the other answers.

        Raises:
            UserError: a reference is not what the metric expects; names file and row.
        """
        scores = []
        for answer in answers:
            try:
                scores.append(self.score_answer(answer))
            except UnreadableReference as error:
                raise UserError(f"{answer.source}: {self.name}: {error}") from error
        return scores

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        """Additive counts of each answer.

        Args:
            answers: at least one, of all processes.
            scores: from `score_answers`.
        """
        return {"score": np.asarray(scores, np.float64), "answers": np.ones(len(answers))}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The figures of a set of answers: the main one under "", others under their names.

        Args:
            sums: sum of each of `counts` over the set.
        """
        return {"": sums["score"] / sums["answers"]}

    def aggregate(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> float | None:
        """The figure of a set of answers where it is no function of sums; no interval is known.

        Args:
            predictions: generated answers, at least one, of all processes.
            references: accepted answers to each question.

        Returns:
            None for a metric whose figures come from `figures`.
        """
        return None

    def figure_name(self, figure: str) -> str:
        """Full name of a figure: `NAME` or `NAME_FIGURE`."""
        return f"{self.name}_{figure}" if figure else self.name

    def is_better_higher(self, name: str) -> bool | None:
        """Direction of a figure by its full name; None if it is not of this metric."""
        if name == self.name:
            return self.higher_is_better
        if not name.startswith(f"{self.name}_"):
            return None
        figure = name.removeprefix(f"{self.name}_")
        return self.higher_is_better is not (figure in self.opposite_figures)


def ratio(part: float, whole: float) -> float:
    """A share of a whole, 0 where there is no whole."""
    return part / whole if whole else 0.0
