"""Generated laboratory pictures and written tables: what the embedded model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.rows import Rows
from dsvl_tune.demo.generated_rows import GeneratedRows
from dsvl_tune.demo.scenes import scene_row
from dsvl_tune.demo.text_tables import table_row
from dsvl_tune.evaluation.metrics import Metric

from .base import ConversationDataModule

PictureKind = Literal["tubes", "rods", "floats"]


class ScenesDataModule(ConversationDataModule):
    """Pictures and written tables made by seed in the worker processes; nothing is downloaded.

    Args:
        train_rows: pictures and tables in an epoch.
        text_ratio: ratio of tables among the training rows, 0..1; they are spread evenly.
        validation_rows: pictures scored during training; they choose the best checkpoint.
        test_rows: pictures scored before and after training.
        retention_tables: written tables scored before and after training.
        kinds: kinds of picture: tubes, rods, floats.
        questions: most questions about a training picture; they are branches of one message tree.
        most: most elements in a training picture or table; held-out ones have up to six.
        cells: ask questions that label every cell of a training picture, see `scenes.scene_row`.
        types: question types about training pictures and tables; null asks all.
        metrics: as in `ConversationDataModule`.
        **options: as in `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        train_rows: int = 10_000,
        text_ratio: float = 0.3,
        validation_rows: int = 20,
        test_rows: int = 60,
        retention_tables: int = 20,
        kinds: tuple[PictureKind, ...] = ("tubes", "rods", "floats"),
        questions: int = 10,
        most: int = 6,
        cells: bool = False,
        types: tuple[str, ...] | None = None,
        metrics: Sequence[Metric | str] = ("relaxed_accuracy",),
        **options: Any,
    ) -> None:
        super().__init__(metrics=metrics, **options)
        self.train_rows = train_rows
        self.text_ratio = text_ratio
        self.validation_rows = validation_rows
        self.test_rows = test_rows
        self.retention_tables = retention_tables
        self.kinds = kinds
        self.questions = questions
        self.most = most
        self.cells = cells
        self.types = types

    def rows(self, split: str) -> Rows:
        """A picture or a table per row, its questions as conversations.

        Held-out rows are pictures, unless all training rows are tables.
        """
        amounts = {
            "train": self.train_rows,
            "validation": self.validation_rows,
            "test": self.test_rows,
        }
        drawn = (self.text_ratio, self.kinds, self.questions, self.most, self.cells, self.types)
        make = partial(self.row, split=split)
        return GeneratedRows(make, amounts[split], ("scenes", split, drawn))

    def row(self, index: int, split: str) -> list[Conversation]:
        """The row of that number.

        Args:
            index: number of the row.
            split: "train", "validation" or "test".
        """
        if split != "train":
            if self.text_ratio == 1:
                return table_row(index, split, self.questions)
            return scene_row(index, split, self.kinds, self.questions)
        # The fractional part of index * ratio goes through 0..1 evenly, so tables come evenly.
        if (index + 1) * self.text_ratio // 1 > index * self.text_ratio // 1:
            return table_row(index, split, self.questions, self.most, self.types)
        return scene_row(
            index, split, self.kinds, self.questions, self.most, self.cells, self.types
        )

    def retention_sets(self) -> dict[str, Rows]:
        """Written tables."""
        if not self.retention_tables:
            return {}
        make = partial(table_row, split="test")
        return {"tables": GeneratedRows(make, self.retention_tables, "tables of test")}
