"""The same by Lightning's trainer: stopped after any step and resumed, in one process and in two real ones.

With two processes the loaders have no workers here: of thousands of forks, a few workers stand still. Python 3.11.7's
`os.fork` waits in the child for the lock on the list of thread states, which another thread held at that moment.
`test_mixture` has two processes with two workers each.
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


def train(folder: Path, data: Any, world_size: int, resume: int = 0) -> list[tuple[int, list[str]]]:
    """Rows of the micro-batches that this process trained on; without `resume` every step is kept."""
    module = Recorder()
    keep = ModelCheckpoint(
        folder / f"kept{world_size}", "{step}", every_n_train_steps=1, save_top_k=-1
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=-1,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        val_check_interval=100,
        check_val_every_n_epoch=None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=not resume,
        callbacks=[] if resume else [keep],
    )
    path = folder / f"kept{world_size}" / f"step={resume}.ckpt" if resume else None
    trainer.fit(module, data, ckpt_path=path, weights_only=True)
    return module.rows


def every_stop(rank: int, world_size: int, folder: Path, checkpoint: str, port: int) -> None:
    """One process's work: each order whole, then from every step on; what it saw goes to a file."""
    if world_size > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LOCAL_RANK": str(rank),
        }
    torch.set_num_threads(1)
    seen: dict[str, list[Any]] = {}
    for order in ORDERS:
        home = folder / order
        seen[order] = []
        workers_tried = (0, 2) if world_size == 1 else (0,)
        for stop, workers in (
            (0, 0),
            *((stop, workers) for stop in range(1, STEPS) for workers in workers_tried),
        ):
            data = make_data(
                order, folder, checkpoint, num_workers=workers, batch_size=4 // world_size
            )
            seen[order].append(train(home, data, world_size, stop))
    (folder / f"seen{world_size}.{rank}").write_text(json.dumps(seen))


@pytest.mark.filterwarnings("ignore")
def test_every_order_from_every_step(
    tiny_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_rows(tmp_path)
    together: dict[str, list[Any]] = {}
    for world_size in (1, 2):
        port = find_free_network_port()
        arguments = [
            (rank, world_size, tmp_path, tiny_checkpoint, port) for rank in range(world_size)
        ]
        processes = [
            get_context("fork").Process(target=every_stop, args=each) for each in arguments
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=300)
            process.kill()
            assert process.exitcode == 0
        seen = [
            json.loads((tmp_path / f"seen{world_size}.{rank}").read_text())
            for rank in range(world_size)
        ]
        for order in ORDERS:
            for own in seen:
                whole, *resumed = own[order]
                assert {step for step, _ in whole} == set(range(STEPS))
                for number, rows in enumerate(resumed):
                    stop = number // (3 - world_size)
                    assert rows == [one for one in whole if one[0] > stop], (
                        order,
                        world_size,
                        number,
                    )
            shares = zip(*([rows for _, rows in own[order][0]] for own in seen), strict=True)
            together.setdefault(order, []).append([sorted(chain(*share)) for share in shares])
    assert all(one == two for one, two in together.values())
