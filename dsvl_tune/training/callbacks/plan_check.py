"""The plan as a table before the first step, and a check that exactly its tensors change."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel

from dsvl_tune.core.family import PartPlan, Parts, Plan, part_of
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.core.text_table import format_table
from dsvl_tune.families import family_of_model
from dsvl_tune.models.finetuning.adapters import adapted_layers
from dsvl_tune.models.finetuning.quantization import (
    four_bit_weights,
    parameter_sizes,
    quantized_parts,
)
from dsvl_tune.models.runtime.fsdp import local, own_rows
from dsvl_tune.training.messages import print_above_bars
from dsvl_tune.training.module import FinetuneModule

# Adam's first update of a weight is about its learning rate. Above this rate a float32 weight of
# size 1 cannot round it away (spacing 1.2e-7); below it (early warm-up of a small rate) a tensor
# may take several steps to change.
SURE_TO_MOVE_LR = 1e-6

COLUMNS = ["part", "mode", "parameters", "tensors", "trained", "lr"]


@dataclass
class PartCounts:
    """What a model part holds.

    Attributes:
        parameters: all of them.
        tensors: those that are trained.
        trained: parameters in them.
    """

    parameters: int = 0
    tensors: int = 0
    trained: int = 0


def count_parts(model: PreTrainedModel) -> dict[str, PartCounts]:
    """Count the parameters of every part of a model; a part that is not loaded has none.

    Args:
        model: with the plan applied.
    """
    family_parts = family_of_model(model).parts
    counts: dict[str, PartCounts] = defaultdict(PartCounts)
    for name, parameter, size in parameter_sizes(model):
        part = counts[part_of(name, family_parts)]
        part.parameters += size
        if parameter.requires_grad:
            part.tensors += 1
            part.trained += size
    return counts


def mode_text(how: PartPlan, quantization: str | None, loaded: bool) -> str:
    """What happens to a part, for the table.

    Args:
        how: the part's plan.
        quantization: of its base, or None.
        loaded: whether it has parameters; its features are cached otherwise.
    """
    if not loaded:
        return "frozen, not loaded"
    mode = f"lora r={how.rank} alpha={how.scale_alpha:g}" if how.mode == "lora" else how.mode
    return mode if quantization is None else f"{mode} on {quantization}"


def plan_table(
    model: PreTrainedModel, plan: Plan, lr: float, quantization: str | None = None
) -> str:
    """One line per model part: mode, tensors and parameters, how many are trained, learning rate.

    Args:
        model: with the plan applied.
        plan: one entry for each part of the model.
        lr: learning rate of parts that name none.
        quantization: of the base, or None.
    """
    family_parts = family_of_model(model).parts
    counts = count_parts(model)
    rows = []
    for part, how in plan.items():
        found = counts[part]
        base = quantization if family_parts[part].quantizable else None
        mode = mode_text(how, base, found.parameters > 0)
        numbers = [f"{count:,}" for count in (found.parameters, found.tensors, found.trained)]
        rows.append([part, mode, *numbers, f"{how.lr or lr:.1e}" if found.trained else "-"])
    totals = [
        f"{sum(getattr(found, kind) for found in counts.values()):,}"
        for kind in ("parameters", "tensors", "trained")
    ]
    table = format_table(COLUMNS, [*rows, ["total", "", *totals, ""]])
    if adapters := adapters_line(model):
        table += f"\n{adapters}"
    if quantization is not None:
        table += f"\n{four_bit_line(model)}"
    return table


def four_bit_line(model: PreTrainedModel) -> str:
    """What of a quantized base is in 4 bits, in words."""
    parts = family_of_model(model).parts
    names = four_bit_weights(model)
    stacks = [name for name in names if parts[part_of(name, parts)].is_experts]
    experts = f" and the {len(stacks)} stacks of experts" if stacks else ""
    where = ", ".join(part for part in quantized_parts(parts) if not parts[part].is_experts)
    layers = len(names) - len(stacks)
    return f"4-bit: the {layers} linear layers of {where}{experts}, double quantized; nothing else"


def adapted_counts(model: PreTrainedModel) -> dict[str, Counter[str]]:
    """Layers with adapters: of each part, how many of each name."""
    parts = family_of_model(model).parts
    counts: dict[str, Counter[str]] = {}
    for name in adapted_layers(model):
        part, leaf = part_of(f"{name}.", parts), name.rpartition(".")[2]
        counts.setdefault(part, Counter())[leaf] += 1
    return counts


def adapters_line(model: PreTrainedModel) -> str:
    """Which layers have adapters, in words; "" without adapters."""
    shown = [
        f"{part} {', '.join(f'{count} {leaf}' for leaf, count in own.items())}"
        for part, own in adapted_counts(model).items()
    ]
    return f"adapters on: {'; '.join(shown)}" if shown else ""


def plan_record(module: FinetuneModule) -> dict[str, Any]:
    """The content of `plan.json`: the plan of each part, and which one has a 4-bit base."""
    record = {part: asdict(how) for part, how in module.plan.items()}
    parts = module.base.family.parts
    for part, layers in adapted_counts(module.network).items():
        record[part] |= {"adapted_layers": dict(layers)}
    if module.quantization is not None:
        quantized = Counter(part_of(name, parts) for name in four_bit_weights(module.network))
        for part in quantized_parts(parts):
            record[part] |= {
                "quantization": module.quantization,
                "quantized_layers": quantized[part],
            }
    return record


def fingerprint(tensor: Tensor) -> bytes:
    """A digest of the bits of a tensor, or of this rank's shard of it.

    Args:
        tensor: of any shape and dtype.
    """
    flat = local(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(flat.data, digest_size=16).digest()


class PlanCheck(L.Callback):
    """Prints and saves the plan, then checks the first optimizer steps against it.

    After the first step no frozen tensor has changed and every tensor with a gradient has. A tensor
    whose gradient was zero is checked later, when it has one: LoRA's A matrices (their B starts at
    0), a neck behind alpha = 0, the vision side after a text-only batch. Tensors that have not
    changed when training ends are reported. So are experts that no token chose: a run is right
    without them, but they learned nothing.

    Args:
        run_folder: `plan.json` is written there.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.before: dict[str, bytes] = {}
        self.waiting: set[str] = set()
        self.with_gradient: dict[str, float] = {}
        self.frozen_checked = False
        self.steps = 0
        self.experts: dict[str, int] = {}
        self.used_experts: dict[str, set[int]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FinetuneModule)
        if trainer.is_global_zero:
            table = plan_table(
                pl_module.network,
                pl_module.plan,
                pl_module.lr,
                pl_module.quantization,
            )
            print_above_bars(f"\nplan for {pl_module.base.folder}\n{table}\n")
            write_json(self.run_folder / "plan.json", plan_record(pl_module))
        for name, parameter in pl_module.network.named_parameters():
            self.before[name] = fingerprint(parameter)
            if parameter.requires_grad:
                self.waiting.add(name)
        self.experts = trained_experts(pl_module.network)
        self.used_experts = {name: set() for name in self.experts}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, FinetuneModule)
        self._note_used_experts(pl_module.network)
        if not self.waiting:
            return
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        parameters = {
            name: parameter
            for name, parameter in pl_module.network.named_parameters()
            if name in self.waiting
        }
        found = {
            name
            for name, parameter in parameters.items()
            if parameter.grad is not None and bool(local(parameter.grad).any())
        }
        self.with_gradient = {name: rates[id(parameters[name])] for name in on_any_rank(found)}

    def _note_used_experts(self, network: nn.Module) -> None:
        """Note the experts that have a gradient, in this rank's rows."""
        for name, used in self.used_experts.items():
            parameter = network.get_parameter(name)
            is_adapter = "lora_" in name
            watched = self.experts[name] if is_adapter else len(local(parameter))
            if parameter.grad is None or len(used) == watched:
                continue
            grad, first = local(parameter.grad), 0
            if is_adapter:  # B [N, rank * E], in the order of `stacked_factors`
                found = grad.unflatten(1, (-1, watched)).flatten(0, 1).any(0)
            else:
                found, first = grad.flatten(1).any(1), own_rows(parameter).start or 0
            used.update(first + row for row in found.nonzero().flatten().tolist())

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
        moved = on_any_rank(changed)
        self._check_against_plan(moved, watched, pl_module.base.family.parts)
        self.waiting -= moved
        if not self.frozen_checked:
            # Written above a progress bar, not into its line.
            print_above_bars(
                f"plan check after the first step: {len(moved)} tensors updated, all planned; "
                f"{len(self.waiting)} planned ones have no gradient yet and are checked later"
            )
        self.frozen_checked = True
        self.steps += 1
        self.with_gradient = {}

    def _check_against_plan(
        self, moved: set[str], watched: dict[str, nn.Parameter], parts: Parts
    ) -> None:
        """Raise for the first tensor that changed and should not have, or the other way round."""
        for name, parameter in watched.items():
            if name in moved and not parameter.requires_grad:
                raise RuntimeError(
                    f"the plan freezes {part_of(name, parts)}, but {name} changed in the first step"
                )
            if name not in moved and self.with_gradient.get(name, 0.0) > SURE_TO_MOVE_LR:
                raise RuntimeError(
                    f"the plan trains {name}, but the optimizer did not update it although it had "
                    "a gradient"
                )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        never = self.waiting
        if self.steps < 2:  # LoRA's A gets its first gradient in the step after B has left 0
            never = {name for name in never if ".lora_A." not in name}
        if never:
            print_above_bars(
                f"plan check: {len(never)} planned tensors were never updated, e.g. {min(never)}"
            )
        self._report_experts()

    def _report_experts(self) -> None:
        """Say which experts have learned nothing."""
        if not self.experts:
            return
        used = on_any_rank(
            {f"{name}[{row}]" for name in self.experts for row in self.used_experts[name]}
        )
        every = {f"{name}[{row}]" for name, count in self.experts.items() for row in range(count)}
        line = f"plan check: all {len(every):,} matrices of experts had a gradient"
        if unused := every - used:
            line = (
                f"plan check: {len(unused):,} of {len(every):,} matrices of experts never had a "
                f"gradient, because no token chose the expert, e.g. {min(unused)}"
            )
        print_above_bars(line)


def trained_experts(model: PreTrainedModel) -> dict[str, int]:
    """The trained tensors of experts, of adapters those of B alone, and the number of experts."""
    parts = family_of_model(model).parts
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not (parameter.requires_grad and parts[part_of(name, parts)].is_experts):
            continue
        wrapper, is_adapter, _ = name.partition(".lora_B.")
        if is_adapter:
            found[name] = int(model.get_submodule(wrapper).num_experts)
        elif "lora_" not in name:
            found[name] = len(parameter)
    return found


def on_any_rank(names: set[str]) -> set[str]:
    """The union of a set over all ranks: each rank sees only its shard of a sharded tensor."""
    if not distributed.is_initialized():
        return names
    gathered: list[set[str]] = [set() for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, names)
    return set().union(*gathered)
