"""The text metrics of torchmetrics, by class path."""

from __future__ import annotations

from collections.abc import Sequence

import torchmetrics

from dsvl_tune.evaluation.metrics.base import Metric


class TorchmetricsText(Metric):
    """A text metric of torchmetrics that takes several references for a prediction.

    These are BLEUScore, SacreBLEUScore, CHRFScore and TranslationEditRate. They are figures of a
    corpus, so they get all answers at once. A recipe gives the metric and its settings::

        metrics:
          - class_path: dsvl_tune.evaluation.metrics.torchmetrics_text.TorchmetricsText
            init_args:
              metric: torchmetrics.text.SacreBLEUScore

    Args:
        metric: from `torchmetrics.text`; the name of its class is the name of the figure.
    """

    def __init__(self, metric: torchmetrics.Metric) -> None:
        self.metric = metric
        self.name = type(metric).__name__
        self.higher_is_better = bool(metric.higher_is_better)

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """The metric of a corpus of one answer."""
        return self.aggregate([prediction], [references])

    def aggregate(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The metric of all answers.

        Unlike `compute`, `forward` does not wait for other processes, which have all answers too
        or score nothing.
        """
        self.metric.reset()
        return float(self.metric(list(predictions), [list(accepted) for accepted in references]))
