"""Stopped at any step and gone on with, a recipe sees exactly the rows that it would have seen.

Every way of ordering rows x one and two processes x none and two workers x every step of two epochs. Here the loaders
are asked directly, told by a stand-in of Lightning's trainer alone how many micro-batches were trained;
`test_resume_runs` has the real trainer in real processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from orders import ORDERS, make_data, write_rows

from dsvl_tune.datamodules import ConversationDataModule

BATCHES = 13
"""More than an epoch of any of the sources below has."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_rows(tmp_path)


def told(rank: int, world_size: int) -> Any:
    """What a data module asks Lightning's trainer."""
    return SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(
                batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0))
            )
        ),
        accumulate_grad_batches=2,
        is_global_zero=True,
        max_steps=100,
        val_check_interval=10,
    )


class Run:
    """The training loader of one process, from any position."""

    def __init__(self, data: ConversationDataModule, rank: int, world_size: int) -> None:
        data.trainer = told(rank, world_size)
        data.setup("fit")
        self.trainer, self.loader = data.trainer, data.train_dataloader()

    def at(self, position: int) -> Iterator[list[str]]:
        """Rows of the micro-batches from a position on, epoch after epoch, as Lightning goes through a loader."""
        total = self.trainer.fit_loop.epoch_loop.batch_progress.total
        total.processed = position
        while True:
            for batch in self.loader:
                total.processed += 1
                yield batch.sources


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_every_step(
    order: str, world_size: int, workers: int, folder: Path, tiny_checkpoint: str
) -> None:
    def start(rank: int, workers: int) -> Run:
        data = make_data(
            order, folder, tiny_checkpoint, batch_size=4 // world_size, num_workers=workers
        )
        return Run(data, rank, world_size)

    whole = []
    for rank in range(world_size):
        unbroken = start(rank, 0)
        whole.append(list(islice(unbroken.at(0), BATCHES)))
        resumed = start(rank, workers)
        for stop in range(BATCHES):
            if (
                not workers
            ):  # a new process's; with workers one loader serves, they are not asked for the order
                resumed = start(rank, 0)
            resumed.loader.load_state_dict(unbroken.loader.state_dict())
            assert (
                list(islice(resumed.at(stop), min(4, BATCHES - stop)))
                == whole[rank][stop : stop + 4]
            ), (rank, stop)
    together = [
        sorted(row for share in shares for row in share) for shares in zip(*whole, strict=True)
    ]
    alone = Run(make_data(order, folder, tiny_checkpoint, batch_size=4), 0, 1)
    assert together == [sorted(rows) for rows in islice(alone.at(0), BATCHES)]
    assert len({tuple(rows) for rows in together}) > BATCHES // 2
