"""MM-Vet (arXiv 2308.02490): GPT-4 grades the answers, so there is a submission and no figure."""

from __future__ import annotations

from collections.abc import Mapping

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly


def _submission(answers: Mapping[str, str]) -> dict[str, str]:
    """The file that the authors' grader takes."""
    return {f"v1_{index}": answer for index, answer in answers.items()}


MMVET = Benchmark(
    name="mmvet",
    file="MMVet.tsv",
    prompt=ask_plainly,
    references=lambda row: (row.text("answer"),),
    rules=(),
    submission=_submission,
    paper=(34.8, 41.5),
    note="no figure: the answers are graded by a judge model; give it the submission file",
)
