"""The plan as a table before the first step, and the proof after it that exactly those tensors moved."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed, nn

from dsvl_tune.core.files import write_json
from dsvl_tune.core.text_table import format_table
from dsvl_tune.families.deepseek_vl.parts import Plan, part_of
from dsvl_tune.models.finetuning.quantization import PART, four_bit_layers, parameter_sizes
from dsvl_tune.models.runtime.fsdp import local
from dsvl_tune.training.module import FinetuneModule


def plan_table(model: nn.Module, plan: Plan, lr: float, quantization: str | None = None) -> str:
    """One line a part: what happens to it, how many tensors and parameters it has and trains, its learning rate.

    A part without parameters was left out of memory: what it makes of the images is in the feature store.
    """
    tensors: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for name, parameter, size in parameter_sizes(model):
        part = part_of(name)
        parameters[part] += size
        if parameter.requires_grad:
            tensors[part] += 1
            trained[part] += size
    rows = []
    for part, how in plan.items():
        mode = f"lora r={how.rank} alpha={how.scale_alpha:g}" if how.mode == "lora" else how.mode
        if quantization is not None and part == PART:
            mode += f" on {quantization}"
        mode = mode if parameters[part] else "frozen, not loaded"
        rate = f"{how.lr or lr:.1e}" if trained[part] else "-"
        rows.append(
            [part, mode, f"{parameters[part]:,}", f"{tensors[part]:,}", f"{trained[part]:,}", rate]
        )
    total = [
        "total",
        "",
        f"{parameters.total():,}",
        f"{tensors.total():,}",
        f"{trained.total():,}",
        "",
    ]
    table = format_table(
        ["part", "mode", "parameters", "trained tensors", "trained parameters", "lr"],
        [*rows, total],
    )
    if quantization is not None:
        table += f"\n4-bit: the {len(four_bit_layers(model))} linear layers of {PART}, doubly quantised; nothing else"
    return table


def plan_record(module: FinetuneModule) -> dict[str, Any]:
    """The content of `plan.json`: each part's plan, and which one's base is in 4 bits."""
    record = {part: asdict(how) for part, how in module.plan.items()}
    if module.quantization is not None:
        layers = len(four_bit_layers(module.network))
        record[PART] |= {"quantization": module.quantization, "quantized_layers": layers}
    return record


def fingerprint(tensor: Tensor) -> bytes:
    """A digest of a tensor's bits, or of the part that this process holds: differs when any bit does."""
    flat = local(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy()
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
        if trainer.is_global_zero:
            table = plan_table(
                pl_module.network, pl_module.plan, pl_module.lr, pl_module.quantization
            )
            print(f"\nplan for {pl_module.folder}\n{table}\n", flush=True)
            write_json(self.run_folder / "plan.json", plan_record(pl_module))
        self.before = {name: fingerprint(p) for name, p in pl_module.network.named_parameters()}
        self.waiting = {name for name, p in pl_module.network.named_parameters() if p.requires_grad}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.waiting:
            return
        assert isinstance(pl_module, FinetuneModule)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        parameters = {
            name: p for name, p in pl_module.network.named_parameters() if name in self.waiting
        }
        found = {
            name
            for name, p in parameters.items()
            if p.grad is not None and bool(local(p.grad).any())
        }
        self.with_gradient = {name: rates[id(parameters[name])] for name in in_any_process(found)}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, FinetuneModule)
        if not self.with_gradient or pl_module.nonfinite_steps.found:
            return
        watched = {
            name: parameter
            for name, parameter in pl_module.network.named_parameters()
            if name in self.with_gradient or not (self.frozen_checked or parameter.requires_grad)
        }
        changed = {
            name
            for name, parameter in watched.items()
            if fingerprint(parameter) != self.before[name]
        }
        moved = in_any_process(changed)
        self.hold_against_plan(moved, watched)
        self.waiting -= moved
        if not self.frozen_checked:
            rank_zero_only(print)(
                f"plan check after the first step: {len(moved)} tensors moved, all of them planned; "
                f"{len(self.waiting)} planned ones had no gradient yet and stay watched",
                flush=True,
            )
        self.frozen_checked, self.with_gradient = True, {}

    def hold_against_plan(self, moved: set[str], watched: dict[str, nn.Parameter]) -> None:
        """Raise on the first tensor that moved and should not have, or should have and did not."""
        for name, parameter in watched.items():
            if name in moved and not parameter.requires_grad:
                raise RuntimeError(
                    f"the plan has {part_of(name)} frozen, but {name} changed in the first step"
                )
            if name not in moved and self.with_gradient.get(name, 0.0) > SURE_TO_MOVE_LR:
                raise RuntimeError(
                    f"the plan trains {name} and it had a gradient, but the optimizer did not move it"
                )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.waiting:
            rank_zero_only(print)(
                f"plan check: {len(self.waiting)} planned tensors never moved, e.g. {min(self.waiting)}"
            )


def in_any_process(names: set[str]) -> set[str]:
    """What is in the set of one process at least: where the model is cut, each sees its own part of a tensor."""
    if not distributed.is_initialized():
        return names
    sets: list[set[str]] = [set() for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(sets, names)
    return set().union(*sets)
