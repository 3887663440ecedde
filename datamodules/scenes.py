"""Generated laboratory pictures and written tables: what the embedded model was trained on."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from dsvl_tune.core.types import Conversation
from dsvl_tune.demo.generated_rows import GeneratedRows
from dsvl_tune.demo.scenes import scene_row
from dsvl_tune.demo.text_tables import table_row

from .base import ConversationDataModule, Rows

PictureKind = Literal["tubes", "rods", "floats"]


class ScenesDataModule(ConversationDataModule):
    """Pictures and written tables drawn by seed in the worker processes; nothing is stored or downloaded.

    Args:
        train_rows: pictures and tables in an epoch.
        text_share: share of tables among the training rows, 0..1; they are spread evenly.
        validation_rows: pictures scored during training, they choose the best checkpoint.
        test_rows: pictures scored before and after.
        retention_tables: written tables scored before and after.
        kinds: kinds of picture: tubes, rods, floats.
        questions: most questions in a training row; they are branches of one message tree.
        most: most elements in a training picture or table; held-out ones have up to six.
        cells: questions that label every cell of a training picture, see `scenes.scene_row`.
        types: question types to ask about training pictures and tables; null asks all.
        **options: checkpoint, batch_size, eval_batch_size, num_workers, seed, max_tokens, on_overflow, system_prompt,
            pack_tokens, metrics.
    """

    def __init__(
        self,
        train_rows: int = 10_000,
        text_share: float = 0.3,
        validation_rows: int = 20,
        test_rows: int = 60,
        retention_tables: int = 20,
        kinds: tuple[PictureKind, ...] = ("tubes", "rods", "floats"),
        questions: int = 10,
        most: int = 6,
        cells: bool = False,
        types: tuple[str, ...] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.amounts = {"train": train_rows, "validation": validation_rows, "test": test_rows}
        self.text_share, self.retention_tables = text_share, retention_tables
        self.kinds, self.questions, self.most = kinds, questions, most
        self.cells, self.types = cells, types

    def rows(self, split: str) -> GeneratedRows:
        """A picture or a table a row, its questions as conversations; held-out rows are tables if all others are."""
        drawn = (self.text_share, self.kinds, self.questions, self.most, self.cells, self.types)
        return GeneratedRows(
            partial(self.row, split=split), self.amounts[split], ("scenes", split, drawn)
        )

    def identity(self, split: str) -> str:
        """The generator and its settings."""
        return self.rows(split).identity

    def row(self, index: int, split: str) -> list[Conversation]:
        """One row; the fractional part of index x share steps through 0..1 evenly, so tables come at even distances."""
        if split != "train":
            if self.text_share == 1:
                return table_row(index, split, self.questions)
            return scene_row(index, split, self.kinds, self.questions)
        if (index + 1) * self.text_share // 1 > index * self.text_share // 1:
            return table_row(index, split, self.questions, self.most, self.types)
        return scene_row(
            index, split, self.kinds, self.questions, self.most, self.cells, self.types
        )

    def retention_sets(self) -> dict[str, Rows]:
        """Written tables."""
        tables = GeneratedRows(
            partial(table_row, split="test"), self.retention_tables, "tables of test"
        )
        return {"tables": tables} if self.retention_tables else {}
