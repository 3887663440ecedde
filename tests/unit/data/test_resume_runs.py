"""The same by Lightning's trainer: stopped after any step and resumed, by one process and by two.

Two processes have loaders without workers here: after thousands of forks, a few workers hang.
Python 3.11.7's `os.fork` waits in the child for the lock on the list of thread states, which
another thread held at that moment. `test_mixture` has two processes with two workers each.
"""

from __future__ import annotations

import json
import os
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.callbacks import ModelCheckpoint
from orders import ORDERS, make_data, write_rows
from quiet_trainer import quiet_trainer
from torch import Tensor

from dsvl_tune.core.types import Batch

STEPS = 4
"""Of two micro-batches; three of them are an epoch of the smallest source."""


class Recorder(L.LightningModule):
    """Notes the rows of every trained micro-batch, and the optimizer step that it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.rows: list[tuple[int, list[str]]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.rows.append(
            (self.global_step, [source.rpartition("/")[2] for source in batch.sources])
        )
        return self.weight * len(batch.sources)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    folder: Path, data: Any, world_size: int, resume: int = 0, stopped_by: int | None = None
) -> list[tuple[int, list[str]]]:
    """Rows of the micro-batches that this process trained on.

    Without `resume` every step is kept; else it resumes after that step of the run of `stopped_by`
    processes.
    """
    module = Recorder()
    kept = folder / f"kept{stopped_by or world_size}"
    keep = ModelCheckpoint(kept, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=-1,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        val_check_interval=100,
        check_val_every_n_epoch=None,
        enable_checkpointing=not resume,
        callbacks=[] if resume else [keep],
    )
    path = kept / f"step={resume}.ckpt" if resume else None
    trainer.fit(module, data, ckpt_path=path, weights_only=True)
    return module.rows


def every_stop(rank: int, world_size: int, folder: Path, checkpoint: str, port: int) -> None:
    """One process's work: each order whole, then from every step on; a file has what it saw.

    One process also resumes the runs of two.
    """
    if world_size > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LOCAL_RANK": str(rank),
        }
    torch.set_num_threads(1)
    seen: dict[str, list[Any]] = {}
    for order in ORDERS:

        def run(
            stop: int, workers: int = 0, stopped_by: int | None = None, order: str = order
        ) -> Any:
            size = 4 // world_size
            data = make_data(order, folder, checkpoint, num_workers=workers, batch_size=size)
            return train(folder / order, data, world_size, stop, stopped_by)

        stops = range(1, STEPS)
        if world_size == 2:
            seen[order] = [run(0), *(run(stop) for stop in stops)]
        else:
            seen[order] = [run(0), *(run(stop, workers) for stop in stops for workers in (0, 2))]
            seen[f"{order}, of two"] = [run(stop, stopped_by=2) for stop in stops]
    (folder / f"seen{world_size}.{rank}").write_text(json.dumps(seen))


@pytest.mark.filterwarnings("ignore")
def test_every_order_from_every_step(
    tiny_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_rows(tmp_path)
    two, one = (run_processes(count, tmp_path, tiny_checkpoint) for count in (2, 1))
    for order in ORDERS:
        for own in (*two, *one):
            whole, *resumed = own[order]
            assert {step for step, _ in whole} == set(range(STEPS))
            per_stop = len(resumed) // (STEPS - 1)
            for number, rows in enumerate(resumed):
                stop = 1 + number // per_stop
                assert rows == after(whole, stop), (order, len(own), number)
        parts = zip(*([rows for _, rows in own[order][0]] for own in two), strict=True)
        together = [sorted(chain(*part)) for part in parts]
        for stop, rows in enumerate(one[0][f"{order}, of two"], start=1):
            assert [sorted(batch) for _, batch in rows] == together[2 * stop :], (order, stop)
        alone = [sorted(rows) for _, rows in one[0][order][0]]
        assert (alone == together) == ("streamed" not in order), order


def after(rows: list[Any], step: int) -> list[Any]:
    return [one for one in rows if one[0] >= step]


def run_processes(count: int, folder: Path, checkpoint: str) -> list[dict[str, Any]]:
    """What each of so many processes saw."""
    port = find_free_network_port()
    arguments = [(rank, count, folder, checkpoint, port) for rank in range(count)]
    processes = [get_context("fork").Process(target=every_stop, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        process.kill()
        assert process.exitcode == 0
    return [json.loads((folder / f"seen{count}.{rank}").read_text()) for rank in range(count)]
