"""POPE (arXiv 2305.10355): is an object in the picture? Three sets, which share questions."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics.yes_no import YesNo


def _label(row: TsvRow) -> tuple[str, ...]:
    """Yes or no."""
    return (row.text("answer").lower(),)


POPE = Benchmark(
    name="pope",
    file="POPE.tsv",
    prompt=ask_plainly,
    references=_label,
    rules=(
        Rule(
            name="official",
            metric=YesNo(),
            figures=(
                "yes_no",
                "yes_no_precision",
                "yes_no_recall",
                "yes_no_f1",
                "yes_no_yes_ratio",
            ),
        ),
    ),
    breakdown=("category",),
    separator=",",
    paper=(87.6, 88.1),
    note="papers give the mean F1 of the three categories; DeepSeek-VL's does not say which figure",
)
