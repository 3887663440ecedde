"""What a metric is: a score for each answer, and one figure for a set of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Metric(ABC):
    """Compares answers with their accepted answers.

    A subclass in any importable module is a metric; a recipe names it by class path::

        data:
          init_args:
            metrics: [relaxed_accuracy, my_module.StartsWith]

    Attributes:
        name: under which figures are logged (`val/NAME`), stored and monitored.
        higher_is_better: direction in which a checkpoint is better.
    """

    name: str
    higher_is_better: bool = True

    @abstractmethod
    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Score of one answer.

        Args:
            prediction: the generated answer, without outer white space.
            references: accepted answers, at least one.
        """

    def aggregate(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The figure of a set of answers: the mean of their scores.

        A metric of a whole corpus (BLEU, CIDEr) overrides this.

        Args:
            predictions: generated answers, at least one, of all processes.
            references: accepted answers to each question.
        """
        pairs = zip(predictions, references, strict=True)
        return sum(self.score(prediction, accepted) for prediction, accepted in pairs) / len(
            predictions
        )
