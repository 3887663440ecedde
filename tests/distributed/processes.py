"""Runs training jobs in groups of processes and keeps their reports: `python processes.py`.

Imports once, then forks. A job is a dict: the arguments of `train`, as text and numbers. Each group
gets a rendezvous of its own, as under torchrun.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from forking import fork
from quiet_trainer import quiet_trainer

from dsvl_tune.core.family import PartPlan
from dsvl_tune.datamodules import InstructDataModule, MixtureDataModule
from dsvl_tune.models.finetuning.adapters import save_trained
from dsvl_tune.models.runtime.fsdp import local, whole
from dsvl_tune.training.callbacks.plan_check import PlanCheck
from dsvl_tune.training.checkpoints.sharded_io import RunCheckpointIO
from dsvl_tune.training.distributed.strategy import choose_strategy
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.objectives.balanced import BalancedLoss
from dsvl_tune.training.run.quiet import quiet_lightning


class Logged(FinetuneModule):
    """Keeps everything it logs."""

    logged: dict[str, list[float]]

    def log(self, name: str, value: Any, **options: Any) -> None:  # type: ignore[override]
        self.logged.setdefault(name, []).append(float(value))


class Keep(L.Callback):
    """Keeps adapters at the start and a checkpoint after some step; counts the state's bytes."""

    def __init__(self, save_at: int | None, path: Path) -> None:
        self.save_at = save_at
        self.path = path
        self.held: dict[str, int] = {}
        self.start: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.start = {
            name: whole(parameter).clone()
            for name, parameter in pl_module.named_parameters()
            if "lora_" in name
        }

    def on_before_zero_grad(
        self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = list(pl_module.parameters())
        state = [
            value for slots in optimizer.state.values() for value in slots.values() if value.ndim
        ]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        held = {"parameters": parameters, "gradients": gradients, "optimizer": state}
        self.held = {
            name: sum(local(tensor).nbytes for tensor in tensors) for name, tensors in held.items()
        }

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.save_at and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.path)


def train(
    folder: Path,
    name: str,
    checkpoint: str,
    files: dict[str, str],
    world_size: int,
    strategy: str,
    steps: int,
    model: dict[str, Any],
    parts: dict[str, Any],
    accumulate: int = 1,
    precision: Any = "32-true",
    save_at: int | None = None,
    resume: str | None = None,
    validate: bool = False,
    homogeneous_steps: bool = False,
    balance: float | None = None,
) -> dict[str, Any]:
    """Train for some steps on text, images and trees; a micro-batch is four rows in all."""
    L.seed_everything(3, verbose=False)
    module = Logged(
        checkpoint,
        parts={k: PartPlan(**how) for k, how in parts.items()},
        min_lr_ratio=1.0,
        **({} if balance is None else {"objective": BalancedLoss(balance)}),
        **model,
    )
    module.logged = {}
    rows = {
        kind: InstructDataModule(path, validation=path, validation_rows=0)
        for kind, path in files.items()
    }
    data = MixtureDataModule(
        rows,  # type: ignore[arg-type]
        ratios={"text": 1, "image": 1},
        text_only=("text",),
        loss_weights={"text": 0.5},
        homogeneous_steps=homogeneous_steps,
        checkpoint=checkpoint,
        batch_size=4 // world_size,
    )
    keep = Keep(save_at, folder / f"{name}.ckpt")
    trainer = quiet_trainer(
        max_steps=steps,
        max_epochs=-1,
        devices=world_size,
        strategy=choose_strategy(strategy, world_size, 1),
        plugins=[RunCheckpointIO(optimizer=True)],
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.5,
        val_check_interval=steps * accumulate if validate else None,
        check_val_every_n_epoch=None if validate else 1,
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        callbacks=[PlanCheck(folder), keep],
    )
    torch.rand(world_size)  # what was drawn before differs between runs
    trainer.fit(module, datamodule=data, ckpt_path=resume and folder / resume)
    save_trained(module.network, folder / name, module.base)
    return {"logged": module.logged, "held": keep.held, "start": keep.start}


def run_group(group: dict[str, Any], rank: int, port: int, folder: Path) -> None:
    """The jobs of a group, one after another, in one of its processes."""
    size = group["world_size"]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "RANK": rank}
    launched = {
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": size,
        "GROUP_RANK": 0,
        "TORCHELASTIC_RUN_ID": "test",
    }
    if size > 1:
        os.environ.update({key: str(value) for key, value in (rendezvous | launched).items()})
    for job in group["jobs"]:
        result = train(folder, world_size=size, **job)
        (folder / f"{job['name']}.{rank}.pickle").write_bytes(pickle.dumps(result))


def fork_group(group: dict[str, Any], folder: Path) -> None:
    """Fork the processes of a group and wait for all of them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(group["world_size"]):
        children.append(fork(partial(run_group, group, rank, port, folder)))
    if any(os.waitpid(child, 0)[1] for child in children):
        raise SystemExit(f"a process of {group} failed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with quiet_lightning():
        for one in json.loads(sys.stdin.read()):
            fork_group(one, Path(sys.argv[1]))
