"""OCRBench (arXiv 2305.07895): points of 1,000."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics.ocrbench import FORMULAS, OCRBench


def _dataset(row: TsvRow) -> Mapping[str, Any]:
    """The data set of a row: of the TSV's categories one is HME100k."""
    is_formula = row.cells.get("category") == "Handwritten Mathematical Expression Recognition"
    return {"dataset_name": FORMULAS} if is_formula else {}


OCRBENCH = Benchmark(
    name="ocrbench",
    file="OCRBench.tsv",
    prompt=ask_plainly,
    references=lambda row: row.texts("answer"),
    fields=_dataset,
    rules=(Rule(name="official", metric=OCRBench(), figures=("ocrbench",)),),
    breakdown=("category",),
    paper=(40.9, 45.6),
    note="points of 1,000 are ten times the percentage of all 1,000 questions",
)
