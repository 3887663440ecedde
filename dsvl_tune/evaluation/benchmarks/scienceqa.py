"""ScienceQA (arXiv 2209.09513), the test questions with an image."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, options
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice

SCIENCEQA = Benchmark(
    name="scienceqa",
    file="ScienceQA_TEST.tsv",
    prompt=ask_choice,
    references=letter,
    fields=options,
    rules=(choice_rule("vlmevalkit", "vlmevalkit"), choice_rule("llava", "llava")),
    breakdown=("l2-category",),
)
