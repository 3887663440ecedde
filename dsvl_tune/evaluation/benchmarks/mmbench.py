"""MMBench (arXiv 2307.06281), English and Chinese, dev split: circular evaluation."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, options
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice

_RULES = (choice_rule("vlmevalkit", "vlmevalkit", circular=True),)
_NOTE = (
    "a question is right only if all its rotations are; without a judge unread answers are wrong"
)

MMBENCH = Benchmark(
    name="mmbench",
    file="MMBench_DEV_EN.tsv",
    prompt=ask_choice,
    references=letter,
    fields=options,
    rules=_RULES,
    breakdown=("l2-category", "category"),
    paper=(64.6, 73.2),
    note=_NOTE,
)
MMBENCH_CN = Benchmark(
    name="mmbench_cn",
    file="MMBench_DEV_CN.tsv",
    prompt=ask_choice,
    references=letter,
    fields=options,
    rules=_RULES,
    breakdown=("l2-category", "category"),
    paper=(61.3, 72.8),
    note=_NOTE,
)
