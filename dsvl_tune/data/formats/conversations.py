"""Rows as conversations, read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import Format, read_row
from dsvl_tune.data.readers.open import Rows, open_rows


@dataclass(frozen=True)
class Conversations(Sequence[Conversation]):
    """The conversations of a source; each is read anew every time, nothing is kept.

    Attributes:
        rows: where they come from.
        images_root: folder that image paths are relative to and may not leave; None takes each file's own folder.
        format: as in `formats.read_row`.
        allow_urls: as in `image_refs.ImageSource`.
    """

    rows: Rows
    images_root: Path | None = None
    format: Format = "auto"
    allow_urls: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        """A conversation.

        Raises:
            UserError: its row is not of the format.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, row = self.rows.locate(index)
        home = ImageSource(self.images_root or part.root, self.allow_urls)
        return read_row(part.row(row), part.source(row), home, self.format)


def open_conversations(
    name: str,
    images_root: Path | str | None = None,
    format: Format = "auto",
    allow_urls: bool = False,
) -> Conversations:
    """The conversations of a file, a pattern of files, a folder or a hub name; see `sources.open_rows`."""
    root = None if images_root is None else Path(images_root).expanduser()
    return Conversations(open_rows(name), root, format, allow_urls)
