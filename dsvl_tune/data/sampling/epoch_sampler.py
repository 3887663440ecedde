"""Rows of one source, epoch by epoch."""

from __future__ import annotations

from typing import Any

from dsvl_tune.data.sampling.batch_sampler import BatchSampler
from dsvl_tune.data.sampling.row_orders import ShuffledOrder


class EpochSampler(BatchSampler):
    """Every row once per epoch, in an order drawn from (seed, epoch).

    Each micro-batch takes the next batch_size * world_size rows of the order and deals them to
    the processes in turn. The last one of an epoch is smaller if the rows do not divide; if it
    has fewer rows than there are processes, the first rows of the order fill it up, because every
    process needs one. Nothing else is repeated and nothing is dropped.

    Args:
        num_rows: number of rows.
        batch_size: rows of a micro-batch on one process.
        **options: as in `BatchSampler`.
    """

    def __init__(self, num_rows: int, batch_size: int, **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.num_rows = num_rows
        self.orders = ShuffledOrder(num_rows, (self.seed,))

    @property
    def epoch_batches(self) -> int:
        """Micro-batches of an epoch, on each process."""
        return -(-self.num_rows // self.total_rows)

    def rows_at(self, batch: int) -> list[int]:
        """Numbers of the rows of micro-batch number `batch` on this process."""
        epoch, index = divmod(batch, self.epoch_batches)
        order = self.orders.order(epoch)
        rows: list[int] = order[index * self.total_rows : (index + 1) * self.total_rows].tolist()
        missing = self.world_size - len(rows)
        if missing > 0:
            first: list[int] = order[:missing].tolist()
            rows = (rows + first * missing)[: self.world_size]
        return rows[self.rank :: self.world_size]

    def settings(self) -> dict[str, int]:
        """What the rows of a position depend on."""
        return {
            "rows": self.num_rows,
            "seed": self.seed,
            "rows of a micro-batch over all processes": self.total_rows,
        }
