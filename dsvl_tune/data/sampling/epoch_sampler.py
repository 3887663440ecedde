"""Which rows a step sees: a pure function of seed, position and process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler


class StepSampler(Sampler[list[int]]):
    """A batch sampler whose micro-batch number s is the same whenever, and after whatever, it is asked for.

    An epoch's order is a permutation drawn from (seed, epoch). Each micro-batch takes the next batch_size * world_size
    rows of it and deals them to the processes in turn. The last one of an epoch is smaller if the rows do not divide.
    If it has fewer rows than processes, the first rows of the order fill it up: no process may stay without one.
    Nothing else is repeated and nothing is dropped.

    Args:
        n_rows: rows of the data.
        batch_size: rows of a micro-batch on one process.
        seed: of the permutations.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
        position: asked at the start of each pass: how many micro-batches have been trained. A pass yields one epoch's
            number of micro-batches from there on, so what a loader fetched ahead and nobody trained is not skipped.
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.n_rows, self.batch_size, self.seed = n_rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.position = position

    def __len__(self) -> int:
        """Micro-batches of an epoch, on each process."""
        return -(-self.n_rows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position()
        order: list[int] = []
        for step in range(start, start + len(self)):
            epoch, index = divmod(step, len(self))
            if step == start or index == 0:
                order = self.order(epoch)
            yield self.deal(order, index)

    def state(self) -> dict[str, int]:
        """What the rows of a position depend on; other processes may share them, as long as the product is the same."""
        rows = self.batch_size * self.world_size
        return {
            "rows": self.n_rows,
            "seed": self.seed,
            "rows of a micro-batch over all processes": rows,
        }

    def rows_at(self, step: int) -> list[int]:
        """Rows of micro-batch `step`, counted over all epochs, on this process."""
        epoch, index = divmod(step, len(self))
        return self.deal(self.order(epoch), index)

    def order(self, epoch: int) -> list[int]:
        """All rows in the order of an epoch."""
        # NumPy hashes the pair; torch's CPU generator takes 32 bits of a seed, too few for two numbers side by side.
        order: list[int] = (
            np.random.default_rng((self.seed, epoch)).permutation(self.n_rows).tolist()
        )
        return order

    def deal(self, order: list[int], index: int) -> list[int]:
        """This process's share of an epoch's micro-batch `index`."""
        size = self.batch_size * self.world_size
        rows = order[index * size : (index + 1) * size]
        missing = self.world_size - len(rows)
        if missing > 0:
            rows = (rows + order * missing)[: self.world_size]
        return rows[self.rank :: self.world_size]
