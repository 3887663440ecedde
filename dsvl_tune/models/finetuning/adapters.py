"""Freezing, full training and LoRA as the plan says; the adapter as a plain peft folder.

Adapters are injected into the transformers class and never wrapped around it: the class stays the
root module, which sharding and `generate` need, and what is saved is the folder that
`PeftModel.from_pretrained` loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import atomic_write
from dsvl_tune.core.tensor_files import save_tensors, stream_tensors
from dsvl_tune.families import family_of_model
from dsvl_tune.families.base import PartPlan, Parts, Plan, part_of
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.models.checkpoint.weights import read_file
from dsvl_tune.models.runtime.fsdp import whole

Variant = Literal["lora", "rslora", "dora"]
FULL_WEIGHTS = "full_parts.safetensors"


def apply_plan(
    model: PreTrainedModel,
    plan: Plan,
    variant: Variant = "lora",
    dropout: float = 0.0,
) -> None:
    """Freeze everything, then open what the plan trains.

    Trained tensors become float32, frozen ones keep their dtype.

    Args:
        model: a complete model; changed in place.
        plan: one entry for each part that the model has.
        variant: LoRA, rank-stabilized LoRA (alpha / sqrt(rank)) or DoRA, for all adapters.
        dropout: 0..1, on the adapters' input.
    """
    parts = family_of_model(model).parts
    model.requires_grad_(False)
    adapted = {part: how for part, how in plan.items() if how.mode == "lora"}
    if adapted:
        model.add_adapter(lora_config(adapted, parts, variant, dropout))
        assert_adapted_parts(model, set(adapted), parts)
        install_kernels(model)
    for name, parameter in model.named_parameters():
        trained = "lora_" in name or plan[part_of(name, parts)].mode == "full"
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()


def lora_config(
    adapted: dict[str, PartPlan], parts: Parts, variant: Variant, dropout: float
) -> LoraConfig:
    """One peft config for all parts: rank and alpha of each by pattern."""
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for part, how in adapted.items():
        targets = lora_targets(part, parts)
        ranks[targets], alphas[targets] = how.rank, how.scale_alpha
    first = next(iter(adapted.values()))
    return LoraConfig(
        r=first.rank,
        lora_alpha=first.scale_alpha,
        lora_dropout=dropout,
        target_modules="|".join(f"({targets})" for targets in ranks),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
        bias="none",
    )


def lora_targets(part: str, parts: Parts) -> str:
    """The linear layers of a part, as a regular expression; `make_plan` refuses other parts."""
    targets = parts[part].lora_targets
    assert targets is not None, f"{part} has no linear layers"
    return targets


def assert_adapted_parts(model: nn.Module, expected: set[str], parts: Parts) -> None:
    """Exactly the parts of the plan have adapters; a pattern that hits none would train nothing."""
    adapted = {part_of(name, parts) for name, _ in model.named_parameters() if "lora_" in name}
    if adapted != expected:
        raise RuntimeError(f"adapters went to {sorted(adapted)}, the plan says {sorted(expected)}")


def save_trained(
    model: PreTrainedModel, folder: Path, read: Callable[[str], Tensor] | None = None
) -> None:
    """Write what was trained: adapters as a plain peft folder, and the fully trained tensors.

    `adapter_config.json` and `adapter_model.safetensors` are what peft reads.
    `full_parts.safetensors`, written only if a part is fully trained, holds tensors under their
    names in the base checkpoint. Each file appears whole or not at all. Fully trained tensors are
    in memory one at a time.

    Args:
        model: with the plan applied. All processes of a sharded one must call this; the first one
            writes.
        folder: to write to.
        read: gives a trained parameter's values, of its shape and dtype, by its name; None takes
            the model's own.
    """
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    read = read or (lambda name: whole(trained[name]))
    full = {name.replace(".base_layer.", "."): name for name in trained if "lora_" not in name}
    adapters = {name: read(name) for name in trained if "lora_" in name}
    if distributed.is_initialized() and distributed.get_rank() > 0:
        for name in full.values():
            read(name)  # the first process needs this one's rows
        return
    folder.mkdir(parents=True, exist_ok=True)
    if full:
        like = {plain: trained[name] for plain, name in full.items()}
        atomic_write(
            folder / FULL_WEIGHTS,
            lambda path: stream_tensors(path, like, lambda plain: read(full[plain])),
        )
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        return
    state = get_peft_model_state_dict(model, state_dict=adapters, adapter_name="default")
    tensors = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
    atomic_write(folder / "adapter_model.safetensors", lambda path: save_tensors(path, tensors))
    write_adapter_config(config, model, folder)


def write_adapter_config(config: LoraConfig, model: PreTrainedModel, folder: Path) -> None:
    """Write peft's own adapter_config.json, first to a staging folder so that it appears whole."""
    config.base_model_name_or_path = str(model.name_or_path)
    config.inference_mode = True
    staging = folder / ".adapter_config"
    config.save_pretrained(str(staging))
    (staging / "adapter_config.json").replace(folder / "adapter_config.json")
    staging.rmdir()
    config.inference_mode = False


def load_trained(model: PreTrainedModel, folder: Path) -> None:
    """Put what `save_trained` wrote onto the base it was trained from; in place, in eval mode.

    Args:
        model: the base.
        folder: with an adapter, fully trained tensors, or both.

    Raises:
        UserError: neither is there, or they do not fit the base.
    """
    adapter, full = folder / "adapter_config.json", folder / FULL_WEIGHTS
    if not adapter.is_file() and not full.is_file():
        raise UserError(
            f"{folder}: neither adapter_config.json nor {FULL_WEIGHTS} there. Give the adapter "
            "folder of a run."
        )
    if adapter.is_file():
        load_adapter(model, folder)
    if full.is_file():
        load_full_weights(model, full)
    model.eval()


def load_full_weights(model: PreTrainedModel, path: Path) -> None:
    """Copy fully trained tensors into a model.

    Raises:
        UserError: a tensor does not fit the base.
    """
    state = read_file(path)
    plain = {
        name.replace(".base_layer.", "."): parameter for name, parameter in model.named_parameters()
    }
    unknown = [
        name
        for name, tensor in state.items()
        if name not in plain or plain[name].shape != tensor.shape
    ]
    if unknown:
        raise UserError(f"{path}: {len(unknown)} tensors do not fit the base, e.g. {unknown[0]}.")
    with torch.no_grad():
        for name, tensor in state.items():
            plain[name].copy_(tensor)


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Inject a peft adapter, with every tensor of the file used and none missing.

    Raises:
        UserError: the adapter does not fit the base.
    """
    config = LoraConfig.from_pretrained(str(folder))
    inject_adapter_in_model(config, model, "default")
    install_kernels(model)
    state = {
        re.sub(r"^base_model\.model\.", "", name): tensor
        for name, tensor in read_file(folder / "adapter_model.safetensors").items()
    }
    expected = set(get_peft_model_state_dict(model, adapter_name="default"))
    if expected != set(state):
        wrong = sorted(expected.symmetric_difference(state))
        raise UserError(
            f"{folder}: the adapter does not fit the base ({len(wrong)} tensors differ, e.g. "
            f"{wrong[0]})."
        )
    set_peft_model_state_dict(model, state, adapter_name="default")
