"""ChartQA (arXiv 2203.10244), test split: human and augmented questions."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.prompts import ask_short
from dsvl_tune.evaluation.metrics import RelaxedAccuracy

CHARTQA = Benchmark(
    name="chartqa",
    file="ChartQA_TEST.tsv",
    prompt=ask_short,
    references=lambda row: (row.text("answer"),),
    rules=(Rule(name="official", metric=RelaxedAccuracy(), figures=("relaxed_accuracy",)),),
    breakdown=("split",),
)
