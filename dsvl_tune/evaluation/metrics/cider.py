"""CIDEr-D (arXiv 1411.5726) by pycocoevalcap."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Metric


class CIDEr(Metric):
    """pycocoevalcap's CIDEr-D (0..10), on the texts as they are.

    An n-gram weighs more the fewer images of the whole set have it in their references, so scores
    of different sets do not compare, and a set of one image scores 0. COCO's figures are those of
    texts in lower case without punctuation (its tokenizer needs Java).
    """

    name = "cider"

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """CIDEr of a set of one answer, which is 0 by definition."""
        return _cider([prediction], [references])[0]

    def score_answers(self, answers: Sequence[Answer]) -> list[float]:
        return _cider([answer.text for answer in answers], [one.references for one in answers])


def _cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Score of each prediction within the set.

    Raises:
        UserError: pycocoevalcap is not installed.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise UserError(
            "metric cider: needs pycocoevalcap. Install it: pip install 'dsvl-tune[captions]'."
        ) from error
    accepted = {number: list(texts) for number, texts in enumerate(references)}
    answered = {number: [text] for number, text in enumerate(predictions)}
    _, scores = Cider().compute_score(accepted, answered)
    return [float(score) for score in scores]
