"""Generated charts: the data that the small recipes tune on."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from dsvl_tune.demo.charts import chart_row
from dsvl_tune.demo.generated_rows import GeneratedRows
from dsvl_tune.demo.scenes import scene_row

from .base import ConversationDataModule, Rows

ChartKind = Literal["upright", "lying", "grouped", "line", "pie"]


class ChartsDataModule(ConversationDataModule):
    """Charts drawn by seed in the worker processes, with exact answers; nothing is stored or downloaded.

    Validation and test charts have seeds, values and looks that no training chart has.

    Args:
        train_charts: charts in an epoch.
        validation_charts: charts scored during training, they choose the best checkpoint.
        test_charts: charts scored before and after.
        retention_scenes: pictures of the embedded model's own domain, scored before and after: what was forgotten.
        kinds: kinds of chart: upright, lying, grouped, line, pie.
        questions: most questions on a training chart; they are branches of one message tree.
        **options: checkpoint, batch_size, eval_batch_size, num_workers, seed, max_tokens, on_overflow, system_prompt,
            pack_tokens, metrics.
    """

    def __init__(
        self,
        train_charts: int = 10_000,
        validation_charts: int = 30,
        test_charts: int = 120,
        retention_scenes: int = 40,
        kinds: tuple[ChartKind, ...] = ("upright", "lying"),
        questions: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.train_charts = train_charts
        self.validation_charts = validation_charts
        self.test_charts = test_charts
        self.retention_scenes = retention_scenes
        self.kinds = kinds
        self.questions = questions

    def rows(self, split: str) -> GeneratedRows:
        """A chart a row, its questions as conversations."""
        amounts = {
            "train": self.train_charts,
            "validation": self.validation_charts,
            "test": self.test_charts,
        }
        make = partial(chart_row, split=split, kinds=self.kinds, questions=self.questions)
        return GeneratedRows(make, amounts[split], ("charts", make.keywords))

    def identity(self, split: str) -> str:
        """The generator and its settings."""
        return self.rows(split).identity

    def retention_sets(self) -> dict[str, Rows]:
        """The embedded model's own domain."""
        scenes = GeneratedRows(
            partial(scene_row, split="test"), self.retention_scenes, "scenes of test"
        )
        return {"scenes": scenes} if self.retention_scenes else {}
