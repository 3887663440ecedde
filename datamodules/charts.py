"""Generated charts: the data that the small recipes tune on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from dsvl_tune.data.rows import Rows
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.demo.generated_rows import GeneratedRows
from dsvl_tune.demo.scenes import scene_row
from dsvl_tune.evaluation.metrics import Metric

from .base import ConversationDataModule

ChartKind = Literal["upright", "lying", "grouped", "line", "pie"]


class ChartsDataModule(ConversationDataModule):
    """Charts drawn by seed in the worker processes, with exact answers; nothing is downloaded.

    Validation and test charts have seeds, values and looks that no training chart has.

    Args:
        train_charts: charts in an epoch.
        validation_charts: charts scored during training; they choose the best checkpoint.
        test_charts: charts scored before and after training.
        retention_scenes: pictures of the embedded model's own domain, scored before and after
            training to measure forgetting.
        kinds: kinds of chart: upright, lying, grouped, line, pie.
        questions: most questions about a training chart; they are branches of one message tree.
        metrics: as in `ConversationDataModule`.
        **options: as in `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        train_charts: int = 10_000,
        validation_charts: int = 30,
        test_charts: int = 120,
        retention_scenes: int = 40,
        kinds: tuple[ChartKind, ...] = ("upright", "lying"),
        questions: int = 8,
        metrics: Sequence[Metric | str] = ("relaxed_accuracy",),
        **options: Any,
    ) -> None:
        super().__init__(metrics=metrics, **options)
        self.train_charts = train_charts
        self.validation_charts = validation_charts
        self.test_charts = test_charts
        self.retention_scenes = retention_scenes
        self.kinds = kinds
        self.questions = questions

    def rows(self, split: str) -> Rows:
        """A chart per row, its questions as conversations."""
        amounts = {
            "train": self.train_charts,
            "validation": self.validation_charts,
            "test": self.test_charts,
        }
        make = partial(chart_row, split=split, kinds=self.kinds, questions=self.questions)
        return GeneratedRows(make, amounts[split], ("charts", make.keywords))

    def retention_sets(self) -> dict[str, Rows]:
        """The embedded model's own domain."""
        if not self.retention_scenes:
            return {}
        make = partial(scene_row, split="test")
        return {"scenes": GeneratedRows(make, self.retention_scenes, "scenes of test")}
