"""The plan as a table before the first step, and the proof after it that exactly those tensors moved."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from dsvl_tune.files import write_json
from dsvl_tune.models.parts import Plan, part_of
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.table import format_table


def plan_table(model: nn.Module, plan: Plan, lr: float) -> str:
    """One line a part: what happens to it, how many tensors and parameters it has and trains, its learning rate.

    A part without parameters was left out of memory: what it makes of the images is in the feature store.
    """
    tensors: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameters[part] += parameter.numel()
        if parameter.requires_grad:
            tensors[part] += 1
            trained[part] += parameter.numel()
    rows = []
    for part, how in plan.items():
        mode = f"lora r={how.rank} alpha={how.scale_alpha:g}" if how.mode == "lora" else how.mode
        mode = mode if parameters[part] else "frozen, not loaded"
        rate = f"{how.lr or lr:.1e}" if trained[part] else "-"
        rows.append([part, mode, f"{parameters[part]:,}", f"{tensors[part]:,}", f"{trained[part]:,}", rate])
    total = ["total", "", f"{parameters.total():,}", f"{tensors.total():,}", f"{trained.total():,}", ""]
    return format_table(["part", "mode", "parameters", "trained tensors", "trained parameters", "lr"], [*rows, total])


def fingerprint(tensor: Tensor) -> bytes:
    """A digest of a tensor's bits: differs when any bit does."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(flat.data, digest_size=16).digest()


# Adam's first update of a weight is about its learning rate; above this rate a float32 weight of size 1 cannot round
# it away (spacing 1.2e-7), below it (early warm-up of a small rate) a tensor may take several steps to show a change.
SURE_TO_MOVE_LR = 1e-6


class PlanCheck(L.Callback):
    """Prints and saves the plan, then holds the first optimizer steps against it.

    After the first step no frozen tensor has moved and every tensor that had a gradient has. A tensor whose gradient
    was zero stays under watch until it moves: LoRA's A matrices (their B starts at 0), a neck behind alpha = 0, vision
    after a text-only batch. What has not moved when training ends is told.

    Args:
        run_folder: `plan.json` goes there.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.before: dict[str, bytes] = {}
        self.waiting: set[str] = set()
        self.with_gradient: dict[str, float] = {}
        self.frozen_checked = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FinetuneModule)
        table = plan_table(pl_module.network, pl_module.plan, pl_module.lr)
        print(f"\nplan for {pl_module.folder}\n{table}\n", flush=True)
        write_json(self.run_folder / "plan.json", {part: asdict(how) for part, how in pl_module.plan.items()})
        self.before = {name: fingerprint(p) for name, p in pl_module.network.named_parameters()}
        self.waiting = {name for name, p in pl_module.network.named_parameters() if p.requires_grad}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.waiting:
            return
        assert isinstance(pl_module, FinetuneModule)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        self.with_gradient = {
            name: rates[id(parameter)]
            for name, parameter in pl_module.network.named_parameters()
            if name in self.waiting and parameter.grad is not None and bool(parameter.grad.any())
        }

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.with_gradient:
            return
        assert isinstance(pl_module, FinetuneModule)
        watched = {
            name: parameter
            for name, parameter in pl_module.network.named_parameters()
            if name in self.with_gradient or not (self.frozen_checked or parameter.requires_grad)
        }
        moved = {name for name, parameter in watched.items() if fingerprint(parameter) != self.before[name]}
        self.hold_against_plan(moved, watched)
        self.waiting -= moved
        if not self.frozen_checked:
            print(
                f"plan check after the first step: {len(moved)} tensors moved, all of them planned; "
                f"{len(self.waiting)} planned ones had no gradient yet and stay watched",
                flush=True,
            )
        self.frozen_checked, self.with_gradient = True, {}

    def hold_against_plan(self, moved: set[str], watched: dict[str, nn.Parameter]) -> None:
        """Raise on the first tensor that moved and should not have, or should have and did not."""
        for name, parameter in watched.items():
            if name in moved and not parameter.requires_grad:
                raise RuntimeError(f"the plan has {part_of(name)} frozen, but {name} changed in the first step")
            if name not in moved and self.with_gradient.get(name, 0.0) > SURE_TO_MOVE_LR:
                raise RuntimeError(f"the plan trains {name} and it had a gradient, but the optimizer did not move it")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.waiting:
            print(f"plan check: {len(self.waiting)} planned tensors never moved, e.g. {sorted(self.waiting)[0]}")
