"""SEED-Bench (arXiv 2307.16125), the image questions."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, options
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice

SEED_BENCH = Benchmark(
    name="seed_bench",
    file="SEEDBench_IMG.tsv",
    prompt=ask_choice,
    references=letter,
    fields=options,
    rules=(
        choice_rule("vlmevalkit", "vlmevalkit"),
        choice_rule("lmms_eval", "first_character"),
    ),
    breakdown=("category",),
    paper=(66.7, 70.4),
)
