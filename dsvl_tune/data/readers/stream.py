"""Rows that are streamed: read shard after shard, never downloaded, never counted beforehand.

Hugging Face datasets' own streaming is not used: it turns text into numbers, nulls and dates ("007"
and "NA" in CSV, "2020-01-01" in JSON), and parses every row that a resumed run skips.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.base import Reader, Record, RowFile
from dsvl_tune.data.readers.checksum import files_checksum
from dsvl_tune.data.readers.file_formats import stream_format

READ_ERRORS = (
    OSError,
    ValueError,
    ImportError,
    EOFError,
    MemoryError,
    pa.ArrowException,
    zlib.error,
)
"""What fsspec, its protocols and Arrow raise on what they cannot read."""
WINDOW_ROWS = 1000
"""Rows that are shuffled together; up to twice as many are in memory."""


@dataclass
class Stream:
    """The rows of many shards: a reader without a number of rows, and an endless order of them.

    **Order.** An epoch takes the shards in an order drawn from (seed, epoch), and shuffles their
    rows window by window as they arrive. The next epoch follows without a break. Row n of that
    order is the same whenever, and from wherever, it is read.

    **Lanes.** The order may be split into lanes, so that several processes read different shards:
    of each epoch's shards, lane k of n takes every n-th from the k-th on, and is an endless order
    of its own. One lane is the whole order.

    **Resuming.** A shard is counted when it was read to its end. With these counts, which
    checkpoints hold, the order continues from any row that was reached before; counted shards are
    skipped without opening them.

    Attributes:
        name: what errors call the stream.
        shards: paths or URLs.
        seed: seed of the order.
        window_rows: rows that are shuffled together; up to twice as many are in memory.
        counts: rows of the shards that were read to their end, by shard number.
    """

    name: str
    shards: Sequence[str]
    seed: int = 1
    window_rows: int = WINDOW_ROWS
    counts: dict[int, int] = field(default_factory=dict)

    num_rows: None = field(default=None, init=False)
    identity: None = field(default=None, init=False)
    files: tuple[RowFile, ...] = field(default=(), init=False)

    @property
    def checksum(self) -> int:
        """Of the shards on this machine; remote ones are known by their names alone."""
        return files_checksum(Path(shard) for shard in self.shards if "://" not in shard)

    def record(self, index: int) -> Record:
        """Row number `index` in the order of the shards' names; reads through those before it.

        Raises:
            IndexError: the stream has fewer rows.
        """
        record = next(self.iterate(index), None)
        if record is None:
            raise IndexError(index)
        return record

    def iterate(self, start: int = 0) -> Iterator[Record]:
        """Every row from number `start` on, once, in the order of the shards' names."""
        return islice(self.shard_rows(range(len(self.shards))), start, None)

    def shuffled(self, start: int = 0, lane: int = 0, num_lanes: int = 1) -> Iterator[Record]:
        """The endless order of a lane, from its row number `start` on.

        Args:
            start: rows to skip.
            lane: number of the lane, from 0.
            num_lanes: number of lanes, at most the number of shards.

        Raises:
            UserError: a shard cannot be read, has changed since it was counted, or none has a row.
        """
        for epoch in count():
            shards = self.epoch_shards(epoch)[lane::num_lanes]
            size = self.counted_rows(shards)
            if size is not None and size <= start:
                start -= size
                self.check_rows()
                continue
            window, inside = divmod(start, self.window_rows)
            yield from islice(self.epoch_rows(epoch, shards, window), inside, None)
            start = 0

    def epoch_shards(self, epoch: int) -> list[int]:
        """Numbers of the shards in the order in which an epoch takes them."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.shards))
        return order.tolist()

    def counted_rows(self, shards: Sequence[int]) -> int | None:
        """Rows of these shards; None unless each of them was counted."""
        if not all(shard in self.counts for shard in shards):
            return None
        return sum(self.counts[shard] for shard in shards)

    def check_rows(self) -> None:
        """Raise if every shard was counted and none has a row: the order would never yield one."""
        if self.counted_rows(range(len(self.shards))) == 0:
            raise UserError(f"{self.name}: no rows. Expected at least one conversation.")

    def epoch_rows(self, epoch: int, shards: Sequence[int], window: int) -> Iterator[Record]:
        """The rows of an epoch's shards from a window on.

        With each row that is yielded one of the next window is read, so no window is waited for.
        """
        rows = self.shard_rows(shards, window * self.window_rows)
        block = list(islice(rows, self.window_rows))
        while block:
            ahead: list[Record] = []
            places = np.random.default_rng((self.seed, epoch, window)).permutation(len(block))
            for place in places:
                ahead += islice(rows, 1)
                yield block[place]
            block = ahead
            window += 1

    def shard_rows(self, shards: Sequence[int], start: int = 0) -> Iterator[Record]:
        """The rows of shards, one shard after another, from row number `start` on.

        Args:
            shards: numbers of the shards.
            start: rows to skip: those of counted shards, and of the first that is not counted.

        Raises:
            UserError: a shard cannot be read, or its number of rows changed.
        """
        for shard in shards:
            known = self.counts.get(shard)
            if known is not None and known <= start:
                start -= known
                continue
            end = start
            for record in read_shard(self.shards[shard], start):
                end += 1
                yield record
            if self.counts.setdefault(shard, end) != end or end == start > 0:
                raise UserError(
                    f"{self.shards[shard]}: ends after {end:,} rows, but had {known or start:,} "
                    "when it was read before. The files of a stream may not change while a run "
                    "reads them; start a new run."
                )
            start = 0


def as_stream(reader: Reader) -> Stream | None:
    """The reader if it is a stream."""
    return reader if isinstance(reader, Stream) else None


def read_shard(path: str, start: int = 0) -> Iterator[Record]:
    """The rows of one shard, read one after another: the rows that opening the same file finds.

    Args:
        path: a local path, or a URL that fsspec opens (hf://, s3://, https://, ...).
        start: rows to skip. They are not parsed, and in parquet not read.

    Raises:
        UserError: the shard cannot be read to its end.
    """
    stream = stream_format(path)
    root = Path() if "://" in path else Path(path).parent
    number = start
    try:
        with fsspec.open(path, "rb") as file:
            for content, parse, source in stream(file, path, start):
                yield Record(content, parse, source, root)
                number += 1
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())
        where = f" after row {number:,}" if number else ""
        raise UserError(
            f"{path}: cannot be read{where} ({reason}). Check it and its name."
        ) from None
