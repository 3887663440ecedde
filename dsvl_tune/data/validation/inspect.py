"""One pass over all rows, in many processes; what it finds is cached and has the rows' lengths."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.progress import no_bar, tqdm
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.validation.result_cache import ResultCache
from dsvl_tune.data.validation.row_stats import RowInspector, RowStats, row_length

FORK_FROM = 2000
"""Rows from which more processes save more time than they take to start."""
CACHE_FROM = 2000
"""Rows from which results are cached; fewer are inspected again sooner than they are read."""
PIECE_ROWS = 1000
"""Rows of a file in the cache."""
BATCH_ROWS = 64
"""Rows that a worker process inspects at a time."""

Inspect = Callable[[Sequence[Conversation]], list[RowStats]]


@dataclass
class InspectedRows(Dataset[list[RowStats]]):
    """A map-style data set of results, for the processes of a DataLoader.

    Attributes:
        rows: the rows.
        inspect: finds the result of each conversation of a row.
    """

    rows: Rows
    inspect: Inspect

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> list[RowStats]:
        try:
            return self.inspect(self.rows[key])
        except UserError as error:
            return [RowStats("", str(error))]


def inspect_rows(
    rows: Rows,
    inspect: Inspect,
    *,
    title: str = "checking rows",
    fork_from: int = FORK_FROM,
    cache_from: int = CACHE_FROM,
    piece_rows: int = PIECE_ROWS,
) -> Generator[list[RowStats], None, None]:
    """The results of each row, in order: one for each of its conversations.

    A row that cannot even be read has one result, with its error and no source. Results of a
    `RowInspector` are cached, unless the rows have no identity or are few.

    Args:
        rows: read one by one; of a stream all of them, in the order of its shards.
        inspect: usually a `RowInspector`.
        title: of the progress bar.
        fork_from: rows from which several processes inspect them.
        cache_from: rows from which results are cached.
        piece_rows: rows of a file in the cache.
    """
    size = rows.num_rows
    cached = isinstance(inspect, RowInspector) and rows.identity is not None
    if size is None or not cached or size < cache_from:
        yield from inspect_keys(rows, inspect, rows.keys(), size, title, fork_from)
        return
    assert isinstance(inspect, RowInspector)
    cache = ResultCache(f"{rows.identity}{inspect.identity()}", size, piece_rows)
    missing = deque(cache.missing())
    found = inspect_keys(rows, inspect, iter(tuple(missing)), len(missing), title, fork_from)
    with closing(found):
        for start in cache.starts():
            piece = cache.read(start)
            changed = False
            for place in range(len(piece)):
                if missing and missing[0] == start + place:
                    missing.popleft()
                    piece[place] = next(found)
                    changed = True
            complete = [results for results in piece if results is not None]
            if changed:
                cache.write(start, complete)
            yield from complete


def inspect_keys(
    rows: Rows,
    inspect: Inspect,
    keys: Iterator[Any],
    total: int | None,
    title: str,
    fork_from: int,
) -> Generator[list[RowStats], None, None]:
    """The results of the rows with these keys, in order.

    Args:
        rows: the rows.
        inspect: as in `inspect_rows`.
        keys: of the rows to inspect.
        total: number of keys; None if it is unknown.
        title: of the progress bar.
        fork_from: as in `inspect_rows`.
    """
    workers = min(os.cpu_count() or 1, 16) if total is None or total >= fork_from else 0
    loader: DataLoader[Any] = DataLoader(
        InspectedRows(rows, inspect),
        batch_sampler=iter(lambda: list(islice(keys, BATCH_ROWS)), []),
        num_workers=workers,
        collate_fn=list,
    )
    with tqdm(total=total, desc=title, unit="row", leave=False, disable=no_bar()) as progress:
        for batch in loader:
            progress.update(len(batch))
            yield from batch


def check_rows(rows: Rows, inspect: Inspect, title: str) -> list[list[RowStats]]:
    """The results of each row, none of which has an error.

    Args:
        rows: the rows.
        inspect: as in `inspect_rows`.
        title: of the progress bar.

    Raises:
        UserError: what is wrong with the first row that has an error.
    """
    found = []
    with closing(inspect_rows(rows, inspect, title=title)) as inspected:  # with its progress bar
        for results in inspected:
            for stats in results:
                if stats.error:
                    raise UserError(stats.error)
            found.append(results)
    return found


def row_lengths(rows: Rows, inspector: RowInspector) -> NDArray[np.int64]:
    """Tokens of each row: [R] int64.

    Args:
        rows: the rows.
        inspector: measures them.

    Raises:
        UserError: a row cannot be trained on.
    """
    lengths = [row_length(row) for row in check_rows(rows, inspector, "measuring rows")]
    return np.array(lengths, dtype=np.int64)
