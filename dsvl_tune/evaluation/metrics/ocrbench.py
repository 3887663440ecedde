"""The rule of OCRBench (arXiv 2305.07895): a reference occurs in the answer.

Rule: Yuliang-Liu/MultimodalOCR, `OCRBench/example.py`; VLMEvalKit has the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Metric

FORMULAS = "HME100k"
"""Data set of handwritten formulas, which are compared with case and without blanks."""


class OCRBench(Metric):
    """Share of answers that contain a reference (0..1), in lower case, line breaks as blanks.

    Rows whose `dataset_name` (or `dataset`) is HME100k are compared with case and without blanks.
    """

    name = "ocrbench"
    percent = True

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if any reference occurs in the answer, else 0."""
        found = _one_line(prediction.lower())
        return float(any(_one_line(reference.lower()) in found for reference in references))

    def score_answer(self, answer: Answer) -> float:
        dataset = answer.fields.get("dataset_name") or answer.fields.get("dataset")
        if dataset != FORMULAS:
            return self.score(answer.text, answer.references)
        found = _one_line(answer.text).replace(" ", "")
        return float(
            any(_one_line(reference).replace(" ", "") in found for reference in answer.references)
        )


def _one_line(text: str) -> str:
    """A text without outer white space, line breaks as blanks."""
    return text.strip().replace("\n", " ")
