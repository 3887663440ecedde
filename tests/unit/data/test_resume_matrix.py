"""Stopped at any step and resumed, a recipe sees exactly the rows that it would have seen.

Every way of ordering rows x one and two processes x none and two workers x every step of two
epochs. The loaders are asked directly, at positions that are set in a real trainer, which trains
nothing; one of two processes gets its rank as a launcher sets it. `test_resume_runs` trains, in
real processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from orders import ORDERS, make_data, write_rows

from dsvl_tune.datamodules import ConversationDataModule

BATCHES = 13
"""More than an epoch of any of the sources below has."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_rows(tmp_path)


def make_trainer(rank: int, world_size: int) -> L.Trainer:
    """The trainer of one process; the environment variable is the launcher's."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOCAL_RANK", str(rank))
        return L.Trainer(
            accelerator="cpu",
            devices=world_size,
            strategy="ddp" if world_size > 1 else "auto",
            use_distributed_sampler=False,
            max_steps=100,
            val_check_interval=10,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )


class Run:
    """The training loader of one process, from any position."""

    def __init__(self, data: ConversationDataModule, rank: int, world_size: int) -> None:
        data.trainer = self.trainer = make_trainer(rank, world_size)
        data.setup("fit")
        assert data.process() == (rank, world_size)
        self.loader: Any = data.train_dataloader()

    def at(self, position: int) -> Iterator[list[str]]:
        """Rows of the micro-batches from a position on, epoch after epoch, as Lightning does."""
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
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
    states: list[Mapping[str, Any]] = []
    for rank in range(world_size):
        unbroken = start(rank, 0)
        whole.append(list(islice(unbroken.at(0), BATCHES)))
        states.append(unbroken.loader.state_dict())
        resumed = start(rank, workers)
        for stop in range(BATCHES):
            # With workers one loader serves, as they are not asked for the order.
            if not workers:
                resumed = start(rank, 0)
            resumed.loader.load_state_dict(states[rank])
            rest = list(islice(resumed.at(stop), min(4, BATCHES - stop)))
            assert rest == whole[rank][stop : stop + 4], (rank, stop)
    together = [sorted(chain(*parts)) for parts in zip(*whole, strict=True)]
    alone = Run(make_data(order, folder, tiny_checkpoint, batch_size=4), 0, 1)
    for state in states:  # a checkpoint has the counted shards of all processes
        alone.loader.load_state_dict(state)
    assert together == [sorted(rows) for rows in islice(alone.at(0), BATCHES)]
    assert len({tuple(rows) for rows in together}) > BATCHES // 2
