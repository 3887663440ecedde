"""Metrics, one file each: a score for each answer, and one figure for a set of answers.

`Metric` is the base class, `METRICS` has those that a recipe can name without a class path.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.evaluation.metrics.base import Metric
from dsvl_tune.evaluation.metrics.relaxed_accuracy import RelaxedAccuracy

__all__ = ["METRICS", "Metric", "RelaxedAccuracy", "find_metrics"]

METRICS: dict[str, type[Metric]] = {metric.name: metric for metric in (RelaxedAccuracy,)}


def find_metrics(given: Sequence[Metric | str]) -> tuple[Metric, ...]:
    """The metrics that a recipe names.

    Args:
        given: metrics, or names in `METRICS`.

    Raises:
        UserError: an unknown name, or two metrics of one name, whose figures would be mixed up.
    """
    metrics: dict[str, Metric] = {}
    for one in given:
        metric = _named(one) if isinstance(one, str) else one
        if metric.name in metrics:
            raise UserError(
                f"data.metrics: two metrics are called {metric.name!r}. Give each its own name."
            )
        metrics[metric.name] = metric
    return tuple(metrics.values())


def _named(name: str) -> Metric:
    """A new metric of that name with its default settings."""
    if name in METRICS:
        return METRICS[name]()
    raise unknown_name("metric in data.metrics", name, [*METRICS, "the class path of a Metric"])
