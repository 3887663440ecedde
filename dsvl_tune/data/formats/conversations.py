"""Rows of files and streams as conversations, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import Format, read_row
from dsvl_tune.data.readers.base import LoadedRecords, Reader, Record, RowFile
from dsvl_tune.data.readers.checksum import files_checksum
from dsvl_tune.data.readers.open import open_rows, open_stream
from dsvl_tune.data.readers.stream import Stream, as_stream
from dsvl_tune.data.rows import LazyItems, Rows

PICTURE_ROWS = 10_000
"""Rows whose pictures a resumed run compares if the rows are too many to be read before it."""


@dataclass(frozen=True)
class Conversations(LazyItems[Conversation]):
    """The conversation of each row; it is read anew every time, nothing is kept.

    Attributes:
        reader: the rows.
        images_root: folder that image paths are relative to and may not leave; None takes the
            folder of each file.
        format: as in `read_row`.
        allow_urls: whether images may be fetched by URL.
        needs_answer: as in `read_row`.
    """

    reader: Reader
    images_root: Path | None = None
    format: Format = "auto"
    allow_urls: bool = False
    needs_answer: bool = True

    def __len__(self) -> int:
        if self.reader.num_rows is None:
            raise TypeError("a stream has no length")
        return self.reader.num_rows

    def __getitem__(self, index: Any) -> Conversation:
        """A conversation.

        Args:
            index: number of its row, or the row's record.

        Raises:
            UserError: the row is damaged, or not in the format.
        """
        record = index if isinstance(index, Record) else self.reader.record(index)
        image_source = ImageSource(self.images_root or record.root, self.allow_urls)
        return read_row(
            record.value(),
            record.source,
            image_source,
            self.format,
            needs_answer=self.needs_answer,
        )

    @property
    def identity(self) -> str | None:
        """Cache key of the conversations: of the rows, and of how they are read."""
        if self.reader.identity is None:
            return None
        settings = (self.images_root, self.format, self.allow_urls, self.needs_answer)
        return f"{self.reader.identity}{settings}"


@dataclass(frozen=True)
class SelectedConversations(LazyItems[Conversation]):
    """Some conversations of others.

    Attributes:
        conversations: the others.
        numbers: which of them.
    """

    conversations: Conversations
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Conversation:
        return self.conversations[self.numbers[index]]


@dataclass(frozen=True)
class ConversationRows(Rows):
    """Conversations as rows: each on its own, or several as a message tree.

    Attributes:
        conversations: the conversations.
        trees: numbers of the conversations of each row; None makes every conversation a row.
        loaded: the first rows of a stream, which were read when it was opened.
        lengths: [R] int64, tokens of each row if they are known.
        pictures: names of the images of all rows, if they are known.
    """

    conversations: Conversations
    trees: Sequence[Sequence[int]] | None = None
    loaded: Sequence[Record] = ()
    lengths: NDArray[np.int64] | None = field(default=None, compare=False)
    pictures: Sequence[str] | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What errors call the rows."""
        return self.conversations.reader.name

    @property
    def num_rows(self) -> int | None:
        """Number of rows; None for a stream."""
        return self.conversations.reader.num_rows if self.trees is None else len(self.trees)

    @property
    def identity(self) -> str | None:  # type: ignore[override]
        """Cache key: of the conversations, and which of them are in which row."""
        if self.conversations.identity is None:
            return None
        return f"{self.conversations.identity}{self.trees}"

    @property
    def checksum(self) -> int:  # type: ignore[override]
        """Checksum of the files."""
        return self.conversations.reader.checksum

    @property
    def picture_checksum(self) -> int:  # type: ignore[override]
        """Of the pictures that are files; of rows that nobody has read, of some of them."""
        names = self.some_pictures() if self.pictures is None else self.pictures
        paths = {Path(name) for name in names if not name.startswith("sha256:")}
        return files_checksum(path for path in sorted(paths) if "://" not in str(path))

    def some_pictures(self) -> Iterator[str]:
        """Names of the images of up to `PICTURE_ROWS` rows, evenly spaced."""
        keys: Sequence[Any] = self.loaded
        if self.num_rows is not None:
            keys = range(0, self.num_rows, -(-self.num_rows // PICTURE_ROWS) or 1)
        for key in keys:
            try:
                found = [ref.name for one in self[key] for ref in one.images]
            except UserError:  # is raised when training comes to the row
                continue
            yield from found

    @property
    def files(self) -> Sequence[RowFile]:  # type: ignore[override]
        """The opened files; () for a stream."""
        return self.conversations.reader.files

    @property
    def images_root(self) -> Path | None:  # type: ignore[override]
        """Folder that image paths are relative to; None takes the folder of each file."""
        return self.conversations.images_root

    @property
    def stream(self) -> Stream | None:  # type: ignore[override]
        """The stream that the rows come from."""
        return as_stream(self.conversations.reader)

    def __getitem__(self, index: Any) -> list[Conversation]:
        if self.trees is None:
            return [self.conversations[index]]
        return [self.conversations[number] for number in self.trees[index]]

    def keys(self) -> Iterator[Any]:
        """The number of every row; of a stream its records."""
        if self.num_rows is None:
            return self.conversations.reader.iterate()
        return iter(range(self.num_rows))

    def head(self, limit: int) -> Iterator[list[Conversation]]:
        """Up to `limit` of the first rows; of a stream, those that were read when it was opened."""
        keys = self.loaded if self.num_rows is None else range(self.num_rows)
        return (self[key] for key in islice(keys, limit))

    def flattened(self) -> LazyItems[Conversation]:
        """The conversations of all rows, in order."""
        if self.trees is None:
            return self.conversations
        numbers = [number for tree in self.trees for number in tree]
        return SelectedConversations(self.conversations, numbers)

    def with_first_loaded(self, limit: int) -> ConversationRows:
        """The same rows with up to `limit` of the first ones read into `loaded`."""
        return replace(self, loaded=tuple(islice(self.conversations.reader.iterate(), limit)))

    def in_memory(self) -> ConversationRows:
        """The loaded rows alone, as rows with numbers."""
        reader = LoadedRecords(self.name, self.loaded)
        return ConversationRows(replace(self.conversations, reader=reader))


def open_conversations(
    name: str,
    images_root: Path | str | None = None,
    *,
    format: Format = "auto",
    allow_urls: bool = False,
    needs_answer: bool = True,
    stream_seed: int | None = None,
) -> Conversations:
    """The conversations that a recipe names.

    Args:
        name: as in `readers.open_rows`, or `readers.find_shards` for a stream.
        images_root: as in `Conversations`.
        format: as in `read_row`.
        allow_urls: whether images may be fetched by URL.
        needs_answer: as in `read_row`.
        stream_seed: seed of a stream's order; None opens the files instead of streaming them.

    Raises:
        UserError: nothing of that name can be read.
    """
    root = None if images_root is None else Path(images_root).expanduser()
    reader: Reader = open_rows(name) if stream_seed is None else open_stream(name, stream_seed)
    return Conversations(reader, root, format, allow_urls, needs_answer)
