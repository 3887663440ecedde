"""BLEU (Papineni et al., 2002) by sacrebleu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import sacrebleu

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric

MAX_ORDER = 4
"""Longest n-grams, as in the paper."""


class BLEU(Metric):
    """sacrebleu's BLEU (0..100) with all its defaults: tokenizer 13a, case kept.

    The figure of a set is that of the corpus; the score of a single answer is sentence BLEU.

    Args:
        tokenize: sacrebleu's tokenizer: 13a, intl, zh, char or none.
    """

    name = "bleu"

    def __init__(self, tokenize: str = "13a") -> None:
        self.tokenize = tokenize

    @cached_property
    def _sentence(self) -> sacrebleu.BLEU:
        """BLEU of a single answer: n-grams longer than the answer do not count."""
        return sacrebleu.BLEU(tokenize=self.tokenize, effective_order=True)

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Sentence BLEU."""
        return float(self._sentence.sentence_score(prediction, list(references)).score)

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        rows = []
        for answer in answers:
            found = self._sentence.sentence_score(answer.text, list(answer.references))
            rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        orders = range(1, MAX_ORDER + 1)
        names = [f"{what}{order}" for what in ("correct", "total") for order in orders]
        columns = np.array(rows, np.float64).T
        return dict(zip([*names, "length", "reference_length"], columns, strict=True))

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        orders = range(1, MAX_ORDER + 1)
        bleu = sacrebleu.BLEU.compute_bleu(
            correct=[int(sums[f"correct{order}"]) for order in orders],
            total=[int(sums[f"total{order}"]) for order in orders],
            sys_len=int(sums["length"]),
            ref_len=int(sums["reference_length"]),
        )
        return {"": float(bleu.score)}
