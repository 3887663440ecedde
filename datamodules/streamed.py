"""Rows that are streamed: their loader, and what a run must have for them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.registry import Format
from dsvl_tune.data.readers.open import HUB_NAME
from dsvl_tune.data.readers.stream import Stream, StreamedRows, StreamSampler, find_shards

from .base import ConversationDataModule, Rows, StepLoader

FIRST_ROWS = 100
"""Rows of a stream that are checked before training, and that the majority baseline is counted on."""


class StreamLoader(StepLoader):
    """A loader without an end. Its checkpoint also holds the shards' counts, so that a resume passes over them."""

    batch_sampler: StreamSampler  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        """What the order of the rows depends on, and the shards that were read to their end."""
        return {
            **super().state_dict(),
            "rows of the shards": dict(self.batch_sampler.stream.counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `StepLoader.load_state_dict`."""
        super().load_state_dict(state)
        self.batch_sampler.stream.counts.update(state["rows of the shards"])


class StreamingDataModule(ConversationDataModule):
    """A data module whose training rows may be `StreamedRows`."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's position on; from a stream without an end.

        Raises:
            UserError: the trainer needs an end.
        """
        rows = self.rows("train")
        if not isinstance(rows, StreamedRows):
            return super().train_dataloader()
        if self.trainer is not None:
            check_trainer(self.trainer)
        return self.training_loader(rows, StreamLoader)

    def every_row(self) -> Rows:
        """As `ConversationDataModule.every_row`.

        Raises:
            UserError: a stream, of which nobody knows every row.
        """
        if isinstance(self.rows("train"), StreamedRows):
            raise UserError(
                "model.feature_cache: with data.streaming nobody knows every image of the run beforehand. Leave one of "
                "the two out."
            )
        return super().every_row()

    def sampler(self, rows: Rows) -> Any:
        """Which of the training rows come when."""
        if not isinstance(rows, StreamedRows):
            return super().sampler(rows)
        return StreamSampler(rows.stream, self.batch_size, *self.share(), self.trained_batches)


def is_far(name: str) -> bool:
    """Whether rows are not on this machine: a URL or a hub name."""
    local = Path(name.partition("#")[0]).expanduser()
    return "://" in name or (
        not local.exists() and HUB_NAME.fullmatch(name.partition("#")[0]) is not None
    )


def open_stream(
    name: str, rows: int, seed: int, images_root: str | None, format: Format, allow_urls: bool
) -> StreamedRows:
    """The rows that a recipe names, the first `rows` of them read.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    root = None if images_root is None else Path(images_root).expanduser()
    streamed = StreamedRows(Stream(find_shards(name), seed), root, format, allow_urls)
    first = tuple(islice(streamed.records(), rows))
    if rows and not first:
        raise UserError(f"{name}: no rows. Expected at least one conversation.")
    return StreamedRows(streamed.stream, root, format, allow_urls, first)


def check_trainer(trainer: L.Trainer) -> None:
    """Raise unless the trainer can do without knowing how many rows there are."""
    if trainer.max_steps < 1 or not isinstance(trainer.val_check_interval, int):
        raise UserError(
            f"data.streaming: nobody knows how many rows an epoch has, but trainer.max_steps is {trainer.max_steps} "
            f"and trainer.val_check_interval {trainer.val_check_interval}. Give both, in steps."
        )
