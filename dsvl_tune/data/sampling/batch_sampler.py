"""The sampler protocol: which rows each micro-batch of a process holds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from torch.utils.data import Sampler

from dsvl_tune.core.errors import UserError


class BatchSampler(Sampler[list[Any]]):
    """Yields the keys of the rows of each micro-batch of one process.

    Micro-batches are counted over all epochs. What one holds is a pure function of its number, the
    seed and the process: it does not depend on what was asked for before.

    Args:
        batch_size: rows of a micro-batch on one process.
        seed: seed of the order.
        rank: this process, 0..world_size - 1.
        world_size: number of processes.
        position: number of micro-batches that were trained, asked for when a pass begins. So rows
            that a loader fetched ahead and nobody trained on come again.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position

    @property
    @abstractmethod
    def epoch_batches(self) -> int | None:
        """Micro-batches of an epoch; None if it has no end."""

    @abstractmethod
    def rows_at(self, batch: int) -> list[Any]:
        """Keys of the rows of micro-batch number `batch` on this process."""

    @abstractmethod
    def settings(self) -> dict[str, int]:
        """What the rows of a position depend on, by a name for errors."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores; values of plain types.

        Every process calls it at the same time.
        """
        return dict(self.settings())

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint.

        Args:
            state: what `state` returned when the checkpoint was written.

        Raises:
            UserError: a setting differs.
        """
        check_settings(self.settings(), state)

    @property
    def total_rows(self) -> int:
        """Rows of a micro-batch over all processes."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        if self.epoch_batches is None:
            raise TypeError("an epoch of a stream has no end")
        return self.epoch_batches

    def __iter__(self) -> Iterator[list[Any]]:
        start = self.position()
        endless = self.epoch_batches is None
        batches = count(start) if endless else range(start, start + len(self))
        return map(self.rows_at, batches)


def check_settings(settings: Mapping[str, int], state: Mapping[str, Any]) -> None:
    """Raise unless a checkpoint was written with these settings.

    Args:
        settings: of this run, by a name for errors.
        state: the checkpoint's.

    Raises:
        UserError: one differs, so that a position would mean other rows.
    """
    for name, value in settings.items():
        if not isinstance(state.get(name), int) or state[name] != value:
            raise UserError(
                f"resuming: the checkpoint was written with {name} {state.get(name)}, now it is "
                f"{value}, so the run would go on with other data. Resume with the same data and "
                "settings, or start anew: --resume never."
            )
