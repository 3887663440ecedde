"""Rows of several sources, mixed by ratios that may change during training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.data.readers.stream import Stream
from dsvl_tune.data.sampling.mixture_schedule import Mixture, RowCounts
from dsvl_tune.data.sampling.row_orders import make_order
from dsvl_tune.data.sampling.stream_sampler import LaneSampler, names_checksum

WINDOW_BATCHES = 32
"""Micro-batches whose rows are sorted by length together."""


class MixtureSampler(LaneSampler):
    """Micro-batches that hold rows of several sources in the ratios of a mixture.

    A source without replacement is gone through in a new order each time, drawn from (seed,
    source, pass): no row comes again before all others have. Every micro-batch is full. Over all
    processes it holds the same rows whatever their number is, as long as batch_size * world_size
    stays the same.

    With streams of at least as many shards as there are processes, each process mixes its own lane
    (see `LaneSampler`): the ratios then hold in each lane, to a row.

    With `lengths`, the rows of `window_batches` micro-batches are sorted by length and dealt out
    anew, so that a micro-batch holds rows of similar length; the window keeps its rows, and the
    order of its micro-batches is drawn. With homogeneous steps this happens within the batches of
    one kind.

    Args:
        sources: number of rows of each source, or the stream that they come from.
        mixture: how they are mixed.
        batch_size: rows of a micro-batch on one process.
        with_replacement: whether each source is drawn from with replacement; () for none.
        epoch_rows: rows after which an epoch ends, rounded up to whole optimizer steps; None
            takes the sum of the sources' rows, and no end if one of them is a stream.
        lengths: [R] int64, tokens of each row, to group by; the rows of all sources are numbered
            one source after another. None does not group. Not possible with streams.
        window_batches: micro-batches whose rows are sorted by length together.
        **options: as in `BatchSampler`.
    """

    def __init__(
        self,
        sources: Sequence[int | Stream],
        mixture: Mixture,
        batch_size: int,
        *,
        with_replacement: Sequence[bool] = (),
        epoch_rows: int | None = None,
        lengths: NDArray[np.int64] | None = None,
        window_batches: int = WINDOW_BATCHES,
        **options: Any,
    ) -> None:
        streams = [source for source in sources if isinstance(source, Stream)]
        super().__init__(batch_size, streams, **options)
        self.sources = sources
        self.sizes = [source if isinstance(source, int) else 0 for source in sources]
        self.starts = [0, *accumulate(self.sizes)]
        self.mixture = mixture
        self.with_replacement = list(with_replacement) or [False] * len(sources)
        self.epoch_rows = epoch_rows or (None if streams else sum(self.sizes))
        self.lengths = lengths
        self.window_batches = window_batches
        self.orders = [
            make_order(source, (self.seed, number), drawn=self.with_replacement[number])
            for number, source in enumerate(sources)
        ]
        self.counts = lru_cache(maxsize=1)(self.lane_counts)
        self.window = lru_cache(maxsize=2)(self.sorted_window)

    @property
    def epoch_batches(self) -> int | None:
        """Micro-batches of an epoch, on each process; None if it has no end."""
        if self.epoch_rows is None:
            return None
        per_step = self.total_rows * self.mixture.batches_per_step
        return -(-self.epoch_rows // per_step) * self.mixture.batches_per_step

    def rows_at(self, batch: int) -> list[Any]:
        """Keys of the rows of micro-batch number `batch` on this process.

        A row of a source with numbers has its number among all rows; one of a stream the number
        of its source and its record.
        """
        if self.lengths is None:
            return self.deal(lambda lane: self.mixed(batch, lane))
        window, place = divmod(batch, self.window_batches)
        return self.window(window)[place][self.rank :: self.world_size]

    def settings(self) -> dict[str, int]:
        """What the rows of a position depend on."""
        sources = [
            source if isinstance(source, int) else (names_checksum(source), source.seed)
            for source in self.sources
        ]
        whole = (sources, self.mixture, self.with_replacement, self.epoch_rows)
        lengths = 0 if self.lengths is None else crc32(self.lengths.tobytes())
        return {
            "rows": sum(self.sizes),
            "seed": self.seed,
            "rows of a micro-batch over all processes": self.total_rows,
            "mixture (checksum)": crc32(repr(whole).encode()),
            "lengths (checksum)": lengths,
        }

    def lane_counts(self, num_lanes: int) -> RowCounts:
        """How many rows of each source each lane takes."""
        return RowCounts(self.mixture, self.total_rows // num_lanes)

    def mixed(self, batch: int, lane: int = 0) -> list[Any]:
        """A lane's rows of a micro-batch, in drawn order."""
        counts = self.counts(self.num_lanes)
        before, taken = counts.before(batch), counts.at(batch)
        rows: list[Any] = []
        for source, order in enumerate(self.orders):
            keys = order.keys(lane, self.num_lanes, before[source], taken[source])
            rows += [self.row_key(source, key) for key in keys]
        shuffle = np.random.default_rng((self.seed, len(self.sources), batch))
        return [rows[i] for i in shuffle.permutation(len(rows))]

    def row_key(self, source: int, key: Any) -> Any:
        """The key of a source's row among the rows of all sources."""
        return self.starts[source] + key if isinstance(key, int) else (source, key)

    def sorted_window(self, window: int) -> list[list[int]]:
        """The micro-batches of a window over all processes, their rows dealt out by length."""
        assert self.lengths is not None
        numbers = range(window * self.window_batches, (window + 1) * self.window_batches)
        batches = [self.mixed(batch) for batch in numbers]
        counts = self.counts(self.num_lanes)
        is_text = [counts.text_step(batch) for batch in numbers]
        chance = np.random.default_rng((self.seed, len(self.sources) + 1, window))
        for kind in (True, False):
            places = [place for place, text in enumerate(is_text) if text == kind]
            if not places:
                continue
            rows = np.array([row for place in places for row in batches[place]], dtype=np.int64)
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            for part, place in enumerate(chance.permutation(places)):
                start = part * self.total_rows
                batches[place] = rows[start : start + self.total_rows].tolist()
        return batches
