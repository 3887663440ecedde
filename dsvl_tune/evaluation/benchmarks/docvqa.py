"""DocVQA (arXiv 2007.00398) and InfographicVQA (arXiv 2104.12756), validation splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.prompts import ask_short
from dsvl_tune.evaluation.metrics.anls import ANLS

_RULES = (Rule(name="official", metric=ANLS(), figures=("anls",)),)


def _submission(answers: Mapping[str, str]) -> list[dict[str, Any]]:
    """The file that the challenges' server takes."""
    return [{"questionId": int(index), "answer": answer} for index, answer in answers.items()]


DOCVQA = Benchmark(
    name="docvqa",
    file="DocVQA_VAL.tsv",
    prompt=ask_short,
    references=lambda row: row.texts("answer"),
    rules=_RULES,
    submission=_submission,
)
INFOVQA = Benchmark(
    name="infovqa",
    file="InfoVQA_VAL.tsv",
    prompt=ask_short,
    references=lambda row: row.texts("answer"),
    rules=_RULES,
    submission=_submission,
)
