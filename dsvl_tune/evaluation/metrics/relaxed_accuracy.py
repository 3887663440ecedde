"""Relaxed accuracy, the metric of ChartQA (arXiv 2203.10244, section 5.1) and PlotQA (arXiv 1909.00997)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

TOLERANCE = 0.05  # ChartQA: "we allow a minor inaccuracy ... within 5% of the gold answer"


def number(text: str) -> float | None:
    """The number that a whole answer is ("1,200", "35 %", "-3.5"), or None."""
    text = text.strip().removesuffix("%").strip().replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def relaxed_match(prediction: str, reference: str, tolerance: float = TOLERANCE) -> bool:
    """Whether an answer counts as right: numbers within `tolerance` of the reference, other text equal.

    Text is compared without outer blanks and case. A reference of 0 asks for exactly 0, because no relative error
    is defined there.
    """
    wanted, got = number(reference), number(prediction)
    if wanted is None or got is None:
        return prediction.strip().casefold() == reference.strip().casefold()
    if wanted == 0:
        return got == 0
    return abs(got - wanted) / abs(wanted) <= tolerance


class RelaxedAccuracy(Metric):
    """Share of answers that match (0..1), summed over updates and processes."""

    is_differentiable = False
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Count a batch of answers beside what was expected."""
        pairs = zip(predictions, references, strict=True)
        self.correct += sum(relaxed_match(got, wanted, self.tolerance) for got, wanted in pairs)
        self.total += len(references)

    def compute(self) -> Tensor:
        """The share so far; nan before the first answer."""
        return self.correct / self.total


def accuracy_by_kind(
    predictions: Sequence[str], references: Sequence[str], kinds: Sequence[str]
) -> dict[str, float]:
    """`relaxed_accuracy`, the mean over question types, and `relaxed_accuracy/TYPE` for each type; 0..1.

    The mean over types and not over questions: a type with many easy questions must not hide one that fails.
    Data without types (all "") give the plain share.
    """
    metrics: dict[str, RelaxedAccuracy] = defaultdict(RelaxedAccuracy)
    for prediction, reference, kind in zip(predictions, references, kinds, strict=True):
        metrics[kind].update([prediction], [reference])
    shares = {kind: float(metric.compute()) for kind, metric in sorted(metrics.items())}
    by_kind = {f"relaxed_accuracy/{kind}": share for kind, share in shares.items() if kind}
    return {"relaxed_accuracy": sum(shares.values()) / len(shares), **by_kind}
