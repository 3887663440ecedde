"""Rows that are read one after another and never downloaded: in an order that follows from seed and position alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import fsspec
import numpy as np
from torch.utils.data import Sampler

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import Format, read_row
from dsvl_tune.data.readers.arrow import named_files
from dsvl_tune.data.readers.open import HUB_NAME
from dsvl_tune.data.readers.remote import READERS, Record, ending, read_shard

WINDOW = 1000
"""Rows that are shuffled together; up to twice as many are in memory."""


@dataclass
class Stream:
    """The rows of all shards.

    An epoch goes through the shards in an order drawn from (seed, epoch) and shuffles the rows as they come, window by
    window. The next epoch follows without a break. Row number n of that endless order is the same whenever, and from
    wherever, it is read: what a shard holds is counted when it has been read to its end, and a shard whose count is
    known is passed over without opening it.

    Attributes:
        shards: paths or URLs.
        seed: of the order.
        counts: rows of the shards that were read to their end, by number.
    """

    shards: Sequence[str]
    seed: int = 1
    counts: dict[int, int] = field(default_factory=dict)

    def rows_from(self, row: int) -> Iterator[Record]:
        """Rows from number `row` of the endless order on.

        Raises:
            UserError: a shard cannot be read, or does not hold as many rows as before.
        """
        epoch = 0
        if len(self.counts) == len(self.shards):  # else the first epoch has not come to its end
            epoch, row = divmod(row, sum(self.counts.values()))
        while True:
            window, inside = divmod(row, WINDOW)
            yield from islice(self.shuffled(epoch, window), inside, None)
            epoch, row = epoch + 1, 0

    def shuffled(self, epoch: int, window: int) -> Iterator[Record]:
        """The rest of an epoch from a window on. With each row that is given one of the next window is read."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.shards))
        rows = self.in_order(order.tolist(), window * WINDOW)
        block = list(islice(rows, WINDOW))
        while block:
            ahead: list[Record] = []
            for place in np.random.default_rng((self.seed, epoch, window)).permutation(len(block)):
                ahead += islice(rows, 1)
                yield block[place]
            block, window = ahead, window + 1

    def in_order(self, order: Sequence[int], skip: int = 0) -> Iterator[Record]:
        """The rows of the shards in that order, without the first `skip`."""
        for shard in order:
            known = self.counts.get(shard)
            if known is not None and known <= skip:
                skip -= known
                continue
            end = skip
            for record in read_shard(self.shards[shard], skip):
                end += 1
                yield record
            if self.counts.setdefault(shard, end) != end or end == skip > 0:
                raise UserError(
                    f"{self.shards[shard]}: ends after {end:,} rows, but had {known or skip:,} when it was read "
                    "before. A stream's files may not change while a run reads them; start a new run."
                )
            skip = 0


@dataclass(frozen=True)
class StreamedRows(Sequence[list[Conversation]]):
    """The rows of a stream, each a conversation: by `Record` any of them, by number its first ones.

    Attributes:
        stream: where they come from.
        images_root, format, allow_urls: as in `conversations.Conversations`.
        first: its first rows as the shards lie there.
    """

    stream: Stream
    images_root: Path | None = None
    format: Format = "auto"
    allow_urls: bool = False
    first: Sequence[Record] = ()

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int | Record) -> list[Conversation]:  # type: ignore[override]  # never sliced
        """The row's conversation.

        Raises:
            UserError: it is not of the format.
        """
        record = index if isinstance(index, Record) else self.first[index]
        home = ImageSource(self.images_root or record.root, self.allow_urls)
        return [read_row(record.value(), record.source, home, self.format)]

    def records(self) -> Iterator[Record]:
        """Every row once, as the shards lie there."""
        return self.stream.in_order(range(len(self.stream.shards)))


class StreamSampler(Sampler[list[Record]]):
    """A batch sampler without an end whose micro-batch m holds rows m x batch_size x world_size and on of a stream.

    It reads the rows in the training process and deals them to the processes in turn; the loader's workers, however
    many, make conversations, tokens and pixels of them.

    Args:
        stream: the rows.
        batch_size: rows of a micro-batch on one process.
        rank: this process, 0..world_size - 1.
        world_size: number of processes; each reads the whole stream and keeps its share.
        position: asked at the start: how many micro-batches have been trained.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.rank, self.world_size, self.position = rank, world_size, position

    def __iter__(self) -> Iterator[list[Record]]:
        size = self.batch_size * self.world_size
        rows = self.stream.rows_from(self.position() * size)
        while True:
            yield list(islice(rows, size))[self.rank :: self.world_size]

    def state(self) -> dict[str, int]:
        """What the rows of a position depend on."""
        names = [shard.replace("\\", "/").rpartition("/")[2] for shard in self.stream.shards]
        return {
            "shards": len(names),
            "names of the shards (their checksum)": crc32(repr(names).encode()),
            "seed": self.stream.seed,
            "rows of a micro-batch over all processes": self.batch_size * self.world_size,
        }


def find_shards(name: str) -> list[str]:
    """The files that a recipe names for a stream, in the order of their names.

    Args:
        name: a file or a pattern of files, here or as a URL (hf://, s3://, https://, ...); a folder, or a hub name as
            in `sources.open_rows`, whose files Hugging Face datasets names.

    Raises:
        UserError: there are none, or they are of a kind that cannot be streamed.
    """
    whole, _, split = name.partition("#")
    path = Path(name).expanduser()
    if "://" in name:
        found = matching(name) if "*" in name else [name]
    elif re.search(r"[*?\[]", name) and not path.exists():
        found = matching(str(path))
    elif path.suffix.lower() in READERS:
        found = [str(path)]
    elif Path(whole).expanduser().is_dir() or HUB_NAME.fullmatch(whole):
        found = named_files(whole, split or "train")
    else:
        raise UserError(f"{name}: cannot be read: there is no such file or folder. Check the path.")
    if not found:
        raise UserError(f"{name}: cannot be read: no file is named so. Check the pattern.")
    for one in found:
        ending(one)
    return found


def matching(pattern: str) -> list[str]:
    """Paths or URLs that a pattern names."""
    try:
        system, path = fsspec.url_to_fs(pattern)
        found: list[Any] = sorted(system.glob(path))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{pattern}: cannot be read ({error}). Check the address.") from None
    return [system.unstrip_protocol(one) if "://" in pattern else one for one in found]
