"""MathVista (arXiv 2310.02255), testmini: what can be scored without a judge model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics.mathvista import MathVista


def _expected(row: TsvRow) -> Mapping[str, Any]:
    """What kind of answer a row expects."""
    return {
        "question_type": row.text("question_type"),
        "answer_type": row.text("answer_type"),
        "choices": list(row.texts("choices")) if "choices" in row.cells else [],
        "precision": row.cells.get("precision", "0"),
    }


MATHVISTA = Benchmark(
    name="mathvista",
    file="MathVista_MINI.tsv",
    prompt=ask_plainly,
    references=lambda row: (row.text("answer"),),
    fields=_expected,
    rules=(
        Rule(
            name="official, quick path",
            metric=MathVista(),
            figures=("mathvista", "mathvista_unread"),
        ),
    ),
    breakdown=("question_type", "answer_type", "task"),
    paper=(31.1, 36.1),
    note="a lower bound: a judge model read the paper's answers; unread ones are wrong here",
)
