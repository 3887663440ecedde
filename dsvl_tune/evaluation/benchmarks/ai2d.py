"""AI2D (arXiv 1603.07396), test split."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, options
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice

AI2D = Benchmark(
    name="ai2d",
    file="AI2D_TEST.tsv",
    prompt=ask_choice,
    references=letter,
    fields=options,
    rules=(choice_rule("vlmevalkit", "vlmevalkit"),),
    breakdown=("category",),
)
