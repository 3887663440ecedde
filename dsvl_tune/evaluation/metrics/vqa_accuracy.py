"""VQA accuracy over the answers of several annotators, by TextVQA's rule.

Rule: facebookresearch/mmf, `mmf/utils/m4c_evaluators.py` (EvalAIAnswerProcessor,
TextVQAAccuracyEvaluator).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dsvl_tune.evaluation.metrics.base import Metric
from dsvl_tune.evaluation.metrics.contractions import CONTRACTIONS

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = {"a", "an", "the"}
_MOST_PERIODS = int(re.UNICODE)
"""The official code passes this flag where re expects the largest number of replacements: 32."""


class VQAAccuracy(Metric):
    """Mean agreement of answers with the annotators (0..1).

    An answer that n of ten annotators gave counts min(1, n / 3), averaged over the ten subsets of
    nine: 0, 0.3, 0.6, 0.9 or 1. With fewer than four references there is no subset of three; the
    answer then counts 1 if it equals one of them.
    """

    name = "vqa_accuracy"
    percent = True

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Agreement of one answer with the annotators."""
        found = normalize(prediction)
        matches = sum(found == normalize(reference) for reference in references)
        if len(references) <= 3:
            return float(matches > 0)
        # Left out is one that matches (`matches` times), or one that does not.
        others = len(references) - matches
        total = matches * min(1.0, (matches - 1) / 3) + others * min(1.0, matches / 3)
        return total / len(references)


def normalize(text: str) -> str:
    """The text as the official code compares it."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def without_punctuation(text: str) -> str:
    """Punctuation next to a blank is removed, other becomes a blank; periods before no digit go."""
    has_grouped_digits = re.search(r"(?<=\d),+(?=\d)", text) is not None
    out = text
    for mark in _PUNCTUATION:
        stands_apart = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if stands_apart or has_grouped_digits else " ")
    return re.sub(r"\.(?!\d)", "", out, count=_MOST_PERIODS)
