"""Metrics, one file each: a score for each answer, and the figures of a set of answers.

`Metric` is the base class, `METRICS` has those that a recipe can name without a class path.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.evaluation.metrics.anls import ANLS
from dsvl_tune.evaluation.metrics.base import Metric, UnreadableReference
from dsvl_tune.evaluation.metrics.bleu import BLEU
from dsvl_tune.evaluation.metrics.box_iou import BoxIoU
from dsvl_tune.evaluation.metrics.choice import Choice
from dsvl_tune.evaluation.metrics.cider import CIDEr
from dsvl_tune.evaluation.metrics.error_rates import CharacterErrorRate, WordErrorRate
from dsvl_tune.evaluation.metrics.exact_match import ExactMatch
from dsvl_tune.evaluation.metrics.json_fields import JSONFields
from dsvl_tune.evaluation.metrics.numeric_error import NumericError
from dsvl_tune.evaluation.metrics.ocrbench import OCRBench
from dsvl_tune.evaluation.metrics.relaxed_accuracy import RelaxedAccuracy
from dsvl_tune.evaluation.metrics.relaxed_accuracy_lenient import LenientRelaxedAccuracy
from dsvl_tune.evaluation.metrics.rouge_l import RougeL
from dsvl_tune.evaluation.metrics.token_scores import Perplexity, TokenAccuracy
from dsvl_tune.evaluation.metrics.vqa_accuracy import VQAAccuracy
from dsvl_tune.evaluation.metrics.yes_no import YesNo

__all__ = ["METRICS", "Metric", "RelaxedAccuracy", "UnreadableReference", "find_metrics"]

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        RelaxedAccuracy,
        LenientRelaxedAccuracy,
        ExactMatch,
        ANLS,
        VQAAccuracy,
        Choice,
        YesNo,
        OCRBench,
        CharacterErrorRate,
        WordErrorRate,
        RougeL,
        BLEU,
        CIDEr,
        JSONFields,
        NumericError,
        BoxIoU,
        Perplexity,
        TokenAccuracy,
    )
}


CLASS_PATH = "the class path of a Metric"


def find_metrics(given: Sequence[Metric | str], option: str = "data.metrics") -> tuple[Metric, ...]:
    """The metrics that a recipe or a command names.

    Args:
        given: metrics, or names in `METRICS`.
        option: where they are named, for errors.

    Raises:
        UserError: an unknown name, or two metrics of one name, whose figures would be mixed up.
    """
    metrics: dict[str, Metric] = {}
    for one in given:
        metric = _named(one, option) if isinstance(one, str) else one
        if metric.name in metrics:
            raise UserError(
                f"{option}: two metrics are called {metric.name!r}. Give each its own name."
            )
        metrics[metric.name] = metric
    return tuple(metrics.values())


def _named(name: str, option: str) -> Metric:
    """A new metric of that name with its default settings."""
    if name in METRICS:
        return METRICS[name]()
    raise UserError(f"{option}: {unknown_name('metric', name, [*METRICS, CLASS_PATH])}")
