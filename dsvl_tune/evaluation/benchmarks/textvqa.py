"""TextVQA (arXiv 1904.08920), validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.prompts import ask_short
from dsvl_tune.evaluation.metrics.vqa_accuracy import VQAAccuracy


def _submission(answers: Mapping[str, str]) -> list[dict[str, Any]]:
    """The file that the challenge's server takes."""
    return [{"question_id": int(index), "answer": answer} for index, answer in answers.items()]


TEXTVQA = Benchmark(
    name="textvqa",
    file="TextVQA_VAL.tsv",
    prompt=ask_short,
    references=lambda row: row.texts("answer"),
    rules=(Rule(name="official", metric=VQAAccuracy(), figures=("vqa_accuracy",)),),
    submission=_submission,
)
