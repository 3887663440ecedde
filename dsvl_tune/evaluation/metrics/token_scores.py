"""What a model gives the tokens of a text that it reads: perplexity and token accuracy."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference

LOSS = "token_loss"
"""Field of a scored text: sum of the cross entropies of its tokens, in nats."""
CORRECT = "tokens_correct"
"""Field of a scored text: its tokens that the model found the most probable."""
SCORED = "tokens_scored"
"""Field of a scored text: number of tokens."""

MOST_LOSS = 88.0
"""Mean cross entropy from which on a perplexity is that of this one: float32 holds no larger."""


class TokenMetric(Metric):
    """A figure of sums over tokens that a model read (teacher forcing); nothing is generated.

    `fit` and `validate` measure it on the accepted answers of the validation rows and on the text
    files of `data.heldout`. Generated answers have none.

    Attributes:
        sum_name: the field whose sum is divided by the number of tokens.
    """

    sum_name: str

    @abstractmethod
    def of_mean(self, mean: float) -> float:
        """The figure.

        Args:
            mean: mean of `sum_name` over tokens.
        """

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """None: the texts alone have no such figure.

        Raises:
            UnreadableReference: always.
        """
        raise UnreadableReference(
            "is measured on texts that a model reads, not on its answers. It is logged as "
            f"val/{self.name} and for each text file of data.heldout; leave it out of metrics"
        )

    def score_answer(self, answer: Answer) -> float:
        if {self.sum_name, SCORED} - answer.fields.keys():
            return self.score(answer.text, answer.references)
        return self.of_mean(answer.fields[self.sum_name] / answer.fields[SCORED])

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        return {
            name: np.array([answer.fields[name] for answer in answers], np.float64)
            for name in (self.sum_name, SCORED)
        }

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"": self.of_mean(sums[self.sum_name] / sums[SCORED])}


class Perplexity(TokenMetric):
    """Perplexity: the exponential of the mean cross entropy of the tokens, 1 or more.

    It counts the tokens of one tokenizer, so figures of different families do not compare.
    """

    name = "perplexity"
    higher_is_better = False
    sum_name = LOSS

    def of_mean(self, mean: float) -> float:
        """The exponential, at most that of `MOST_LOSS`."""
        return math.exp(min(mean, MOST_LOSS))


class TokenAccuracy(TokenMetric):
    """Share of the tokens that the model, having read those before, finds the most probable."""

    name = "token_accuracy"
    percent = True
    sum_name = CORRECT

    def of_mean(self, mean: float) -> float:
        """The share itself."""
        return mean


TOKEN_METRICS = (Perplexity(), TokenAccuracy())
"""What is measured on texts that a model reads."""
