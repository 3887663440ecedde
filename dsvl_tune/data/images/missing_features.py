"""The distinct images of rows: whether their features are stored, and the pixels of those that are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from dsvl_tune.core.types import Conversation, ImageRef, Pixels, Processor
from dsvl_tune.data.encoding.collate import stack_images
from dsvl_tune.data.images.load import load_image, to_pixels
from dsvl_tune.data.images.lookup import keyed

Row = list[Conversation]
FORK_FROM = 200
"""Rows from which on more processes save more time than their start takes."""


@dataclass
class NewImages:
    """The images of each row that no row before it showed to this process. A map-style data set.

    Attributes:
        rows: read one by one. processor: with the store of features.
    """

    rows: Sequence[Row]
    processor: Processor
    seen: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.rows)

    def new(self, row: Row) -> Iterator[tuple[ImageRef, str, str]]:
        """Each with its bytes read, its key and the conversation that shows it."""
        for conversation in row:
            for ref in conversation.images:
                if ref.name not in self.seen:
                    self.seen.add(ref.name)
                    yield (
                        *keyed(ref, self.processor.image_rule, conversation.source),
                        conversation.source,
                    )

    def stored(self, key: str) -> bool:
        """Whether there is an entry of that key."""
        assert self.processor.features is not None
        return self.processor.features.has(key)


class ImageKeys(NewImages):
    """Key of each new image, and whether its features are stored."""

    def __getitem__(self, index: int) -> list[tuple[str, bool]]:
        return [(key, self.stored(key)) for _, key, _ in self.new(self.rows[index])]


class MissingPixels(NewImages):
    """Pixels of each new image whose features are not stored."""

    def __getitem__(self, index: int) -> list[Pixels]:
        rule = self.processor.image_rule
        return [
            replace(to_pixels(load_image(ref, source), rule, ref.name), key=key)
            for ref, key, source in self.new(self.rows[index])
            if not self.stored(key)
        ]


def image_keys(
    rows: Sequence[Row], processor: Processor, title: str
) -> Iterator[list[tuple[str, bool]]]:
    """What `ImageKeys` finds in each row, in order; many processes, a progress bar."""
    workers = min(os.cpu_count() or 1, 16) if len(rows) >= FORK_FROM else 0
    loader: DataLoader[Any] = DataLoader(
        ImageKeys(rows, processor),  # type: ignore[arg-type]  # has length and items
        batch_size=None,
        num_workers=workers,
    )
    yield from tqdm(loader, desc=title, unit="row", leave=False, total=len(rows))


def missing_pixels(
    rows: Sequence[Row], processor: Processor, batch_size: int, workers: int
) -> DataLoader[Any]:
    """Batches of what `MissingPixels` finds in `batch_size` rows, as `stack_images` has them; some may be empty."""
    return DataLoader(
        MissingPixels(rows, processor),  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=stack_rows,
    )


def stack_rows(rows: list[list[Pixels]]) -> dict[str, Any]:
    """The images of several rows, each once."""
    return stack_images([pixels for row in rows for pixels in row])
