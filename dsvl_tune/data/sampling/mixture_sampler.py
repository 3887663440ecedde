"""Which rows of which source a step sees: a pure function of seed, mixture, position and process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from dsvl_tune.data.sampling.mixture_schedule import Counts, Mixture

WINDOW = 32
"""Micro-batches whose rows are sorted by length together."""
DRAWS = 4096
"""Draws with replacement that are made at once."""


class MixedSampler(Sampler[list[int]]):
    """A batch sampler over several sources, whose rows are numbered one source after another.

    A source without replacement is gone through in a new order each time, drawn from (seed, source, pass): no row comes
    again before all others have. Every micro-batch is full. Over all processes it holds the same rows whatever their
    number is, as long as batch_size * world_size is the same.

    With `lengths`, the rows of `WINDOW` micro-batches (of one kind, under whole-step grouping) are sorted by length and
    dealt out anew, so that a micro-batch holds rows of about one length; the window keeps its rows, the order of its
    micro-batches is drawn.

    Args:
        sizes: rows of each source.
        mixture: how they are mixed.
        batch_size: rows of a micro-batch on one process.
        seed: of all draws.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
        position: asked at the start of each pass: how many micro-batches have been trained.
        with_replacement: whether each source is drawn from with replacement; None for none.
        epoch_rows: rows after which an epoch ends, rounded up to whole optimizer steps; None takes the sizes' sum.
        lengths: tokens of each row, to group by; None does not group.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        mixture: Mixture,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = lambda: 0,
        with_replacement: Sequence[bool] | None = None,
        epoch_rows: int | None = None,
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        self.sizes, self.mixture = list(sizes), mixture
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.position = position
        self.with_replacement = list(with_replacement or [False] * len(self.sizes))
        self.epoch_rows = epoch_rows or sum(self.sizes)
        self.lengths = lengths
        self.starts = [0, *accumulate(self.sizes)]
        self.counts = Counts(mixture, batch_size * world_size)
        self.order = lru_cache(maxsize=2 * len(self.sizes))(self.draw_order)
        self.window = lru_cache(maxsize=2)(self.sorted_window)

    def __len__(self) -> int:
        """Micro-batches of an epoch, on each process."""
        per_step = self.batch_size * self.world_size * self.mixture.batches_per_step
        return -(-self.epoch_rows // per_step) * self.mixture.batches_per_step

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position()
        for batch in range(start, start + len(self)):
            yield self.rows_at(batch)

    def rows_at(self, batch: int) -> list[int]:
        """Rows of micro-batch number `batch`, counted over all epochs, on this process."""
        if self.lengths is None:
            return self.mixed(batch)[self.rank :: self.world_size]
        return self.window(batch // WINDOW)[batch % WINDOW][self.rank :: self.world_size]

    def state(self) -> dict[str, int]:
        """What the rows of a position depend on."""
        whole = (self.sizes, self.mixture, self.with_replacement, self.epoch_rows)
        return {
            "rows": sum(self.sizes),
            "seed": self.seed,
            "rows of a micro-batch over all processes": self.batch_size * self.world_size,
            "mixture (its checksum)": crc32(repr(whole).encode()),
            "lengths (their checksum)": 0
            if self.lengths is None
            else crc32(self.lengths.tobytes()),
        }

    def mixed(self, batch: int) -> list[int]:
        """Rows of a micro-batch over all processes, in drawn order."""
        before = self.counts.before(batch)
        rows = [
            self.starts[source] + self.draw(source, before[source] + i)
            for source, count in enumerate(self.counts.at(batch))
            for i in range(count)
        ]
        shuffle = np.random.default_rng((self.seed, len(self.sizes), batch)).permutation(len(rows))
        return [rows[i] for i in shuffle]

    def draw(self, source: int, number: int) -> int:
        """The row that draw `number` of a source gives."""
        per_order = DRAWS if self.with_replacement[source] else self.sizes[source]
        return int(self.order(source, number // per_order)[number % per_order])

    def draw_order(self, source: int, turn: int) -> NDArray[np.int64]:
        """A pass through a source, or a block of draws from it."""
        draws = np.random.default_rng((self.seed, source, turn))
        if self.with_replacement[source]:
            return draws.integers(self.sizes[source], size=DRAWS)
        return draws.permutation(self.sizes[source])

    def sorted_window(self, window: int) -> list[list[int]]:
        """The micro-batches of a window, their rows dealt out by length."""
        assert self.lengths is not None
        batches = [self.mixed(batch) for batch in range(window * WINDOW, (window + 1) * WINDOW)]
        kinds = [
            self.counts.text_step(batch) for batch in range(window * WINDOW, (window + 1) * WINDOW)
        ]
        size = self.batch_size * self.world_size
        chance = np.random.default_rng((self.seed, len(self.sizes) + 1, window))
        for kind in (True, False):
            places = [place for place, one in enumerate(kinds) if one == kind]
            rows = np.array([row for place in places for row in batches[place]], dtype=np.int64)
            rows = rows[np.argsort(self.lengths[rows], kind="stable")] if len(rows) else rows
            for part, place in enumerate(chance.permutation(places) if places else ()):
                batches[place] = rows[part * size : (part + 1) * size].tolist()
        return batches
