"""Freezing, full training and LoRA as the plan says; saving what was trained, and loading it.

Adapters are injected into the transformers class and never wrapped around it: the class stays the
root module, which sharding and `generate` need, and what is saved is the folder that
`PeftModel.from_pretrained` loads (`trained_files` says when it does not).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, distributed, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.weight_headers import Stored
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Family, PartPlan, Parts, Plan, part_of
from dsvl_tune.core.quick_imports import bitsandbytes_unless_imported
from dsvl_tune.core.storage.files import atomic_write, write_text
from dsvl_tune.core.storage.tensor_files import stream_tensors
from dsvl_tune.families import family_of_model
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.models.checkpoint.weights import read_tensor
from dsvl_tune.models.finetuning.adapter_fit import fit_to
from dsvl_tune.models.finetuning.adapter_readme import adapter_readme
from dsvl_tune.models.finetuning.expert_adapters import (
    Variant,
    adapted_parameter,
    quiet_patterns,
    use_grouped_adapters,
)
from dsvl_tune.models.finetuning.four_bit_experts import shaped_stacks
from dsvl_tune.models.finetuning.trained_files import (
    ADAPTER_WEIGHTS,
    FULL_WEIGHTS,
    OWN_CONFIG,
    PEFT_CONFIG,
    PREFIX,
    base_name,
    open_trained,
)
from dsvl_tune.models.finetuning.whole_modules import whole_modules
from dsvl_tune.models.runtime.fsdp import whole


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
        layers, tensors = targeted_layers(model, adapted, parts), expert_tensors(model, adapted)
        with quiet_patterns(), shaped_stacks(model), bitsandbytes_unless_imported():
            model.add_adapter(lora_config(adapted, parts, variant, dropout, tensors))
        assert_adapted(model, layers | set(tensors))
        use_faster_forwards(model)
    for name, parameter in model.named_parameters():
        trained = "lora_" in name or plan[part_of(name, parts)].mode == "full"
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()


def use_faster_forwards(model: nn.Module) -> None:
    """Give layers with adapters the forwards that replace peft's, in place."""
    install_kernels(model)
    use_grouped_adapters(model)


def lora_config(
    adapted: dict[str, PartPlan],
    parts: Parts,
    variant: Variant,
    dropout: float,
    tensors: list[str],
) -> LoraConfig:
    """One peft config for all parts: rank and alpha of each by pattern.

    Args:
        adapted: the parts that get adapters.
        parts: of the family.
        variant: of the adapters.
        dropout: on their input.
        tensors: names of the experts' tensors that get adapters.
    """
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
        target_modules=layer_targets(adapted, parts) or [],
        target_parameters=tensors or None,
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


def layer_targets(adapted: Collection[str], parts: Parts) -> str:
    """The linear layers of some parts, as one regular expression; "" without any."""
    targets = [lora_targets(part, parts) for part in adapted if not parts[part].is_experts]
    return "|".join(f"({one})" for one in targets)


def targeted_layers(model: nn.Module, adapted: Collection[str], parts: Parts) -> set[str]:
    """Names of the linear layers of some parts, in a model without adapters."""
    found: set[str] = set()
    for part in adapted:
        if parts[part].is_experts:
            continue
        targets = re.compile(lora_targets(part, parts))
        own = {name for name, _ in model.named_modules() if targets.fullmatch(name)}
        assert own, f"{part} has no linear layers in this model"
        found |= own
    return found


def expert_tensors(model: PreTrainedModel, adapted: Collection[str]) -> list[str]:
    """Names of the experts' tensors of some parts, in a model without adapters."""
    parts = family_of_model(model).parts
    found: list[str] = []
    for part in adapted:
        if parts[part].is_experts:
            targets = re.compile(lora_targets(part, parts))
            found += [name for name, _ in model.named_parameters() if targets.fullmatch(name)]
    return found


def adapted_layers(model: nn.Module) -> list[str]:
    """Names of the layers that have adapters, and of the experts' tensors that do."""
    return [
        adapted_parameter(module, name) if isinstance(module, ParamWrapper) else name
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    ]


def assert_adapted(model: nn.Module, wanted: set[str]) -> None:
    """Exactly these layers have adapters: peft rewrites the targets of some architectures."""
    found = set(adapted_layers(model))
    if found != wanted:
        wrong = sorted(found ^ wanted)
        raise RuntimeError(
            f"{len(found)} layers have adapters, the plan says {len(wanted)}: {wrong[0]} and "
            f"{len(wrong) - 1} more differ"
        )


def save_trained(
    model: PreTrainedModel,
    folder: Path,
    base: Checkpoint,
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Write what was trained: the files that `trained_files` describes, and a README.

    Each file appears whole or not at all. Fully trained tensors are in memory one at a time.

    Args:
        model: with the plan applied. All processes of a sharded one must call this; the first one
            writes.
        folder: to write to.
        base: the checkpoint that was trained.
        read: gives a trained parameter's values, of its shape and dtype, by its name; None takes
            the model's own.
    """
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    read = read or (lambda name: whole(trained[name]))
    full = {name: parameter for name, parameter in trained.items() if "lora_" not in name}
    adapters = {name: read(name) for name in trained if "lora_" in name}
    if distributed.is_initialized() and distributed.get_rank() > 0:
        for name in full:
            read(name)  # the first process needs this one's rows
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PEFT_CONFIG, OWN_CONFIG, ADAPTER_WEIGHTS, FULL_WEIGHTS):
        (folder / name).unlink(missing_ok=True)  # an earlier attempt may have trained other parts
    modules = whole_modules(model, full, module_names(base)) if adapters else None
    if modules is None and full:
        write_tensors(folder / FULL_WEIGHTS, {}, full, read)
    if adapters:
        values = peft_names(model, adapters, base.family)
        write_tensors(folder / ADAPTER_WEIGHTS, values, {} if modules is None else full, read)
        config = folder / (OWN_CONFIG if modules is None else PEFT_CONFIG)
        write_adapter_config(model, config, base, modules)
    write_text(folder / "README.md", adapter_readme(base, adapters, full, modules))


def module_names(base: Checkpoint) -> list[str]:
    """Every module of the network that plain peft finds, carried parts included."""
    config = copy.deepcopy(base.config)
    with torch.device("meta"):
        return [name for name, _ in base.family.model_class(config)(config).named_modules()]


def peft_names(
    model: PreTrainedModel, adapters: Mapping[str, Tensor], family: Family
) -> dict[str, Tensor]:
    """Tensors of adapters under the names that peft's files have, in every release they are for.

    Args:
        model: with the adapters.
        adapters: [rank, K], [N, rank] or [N] of any floating dtype, by their parameters' names.
        family: of the model.
    """
    state = get_peft_model_state_dict(model, state_dict=dict(adapters), adapter_name="default")
    earlier = {family.written_name(name): tensor for name, tensor in state.items()}
    return {f"{PREFIX}{name}": tensor for name, tensor in (state | earlier).items()}


def write_tensors(
    path: Path,
    adapters: Mapping[str, Tensor],
    full: Mapping[str, Parameter],
    read: Callable[[str], Tensor],
) -> None:
    """Write tensors of adapters and fully trained ones, which are read one at a time.

    Args:
        path: safetensors file to write.
        adapters: any shapes and dtypes, by their names in the file.
        full: by their names in the model; next to adapters they get peft's prefix in the file.
        read: gives the values of one of `full`, in its shape and dtype, by its name.
    """
    prefix = PREFIX if adapters else ""
    like: dict[str, Tensor] = dict(adapters)
    like |= {f"{prefix}{name}": parameter for name, parameter in full.items()}

    def values(name: str) -> Tensor:
        return adapters[name] if name in adapters else read(name.removeprefix(prefix))

    atomic_write(path, lambda partial: stream_tensors(partial, like, values))


def write_adapter_config(
    model: PreTrainedModel, path: Path, base: Checkpoint, modules: list[str] | None
) -> None:
    """Write the adapter's settings in peft's form.

    They name the base and the class of its network, so that `AutoPeftModel` and transformers'
    `from_pretrained` find both. `AutoPeftModel` takes the class only where no task type is given.

    Args:
        model: with the adapter.
        path: file to write.
        base: the checkpoint that was trained.
        modules: fully trained ones that the adapter's weights include, if any.
    """
    config = copy.deepcopy(model.peft_config["default"])
    config.base_model_name_or_path = base.address
    config.revision = base.commit
    network = base.family.model_class(base.config)
    if base.layout == "transformers":  # it would build another model from the original's settings
        config.auto_mapping = {
            "base_model_class": network.__name__,
            "parent_library": network.__module__,
        }
    config.modules_to_save = modules or None
    config.inference_mode = True
    staging = path.parent / ".adapter_config"
    config.save_pretrained(str(staging))
    (staging / PEFT_CONFIG).replace(path)
    staging.rmdir()


def load_trained(model: PreTrainedModel, folder: Path) -> None:
    """Put what `save_trained` wrote onto the base it was trained from; in place, in eval mode.

    Args:
        model: the base.
        folder: with an adapter, fully trained tensors, or both.

    Raises:
        UserError: neither is there, or they do not fit the base.
    """
    files = open_trained(folder, family_of_model(model))
    if files.config is not None:
        load_adapter(model, files.config, files.adapters, folder)
    load_full_weights(model, files.full, folder)
    model.eval()


def load_full_weights(model: PreTrainedModel, full: Mapping[str, Stored], folder: Path) -> None:
    """Copy fully trained tensors into a model.

    Args:
        model: the base, changed in place.
        full: by their names in the base.
        folder: of the adapter, for the message.

    Raises:
        UserError: a tensor does not fit the base.
    """
    plain = {base_name(name): parameter for name, parameter in model.named_parameters()}
    unknown = [
        name
        for name, stored in full.items()
        if name not in plain or tuple(plain[name].shape) != stored.shape
    ]
    if unknown:
        raise UserError(f"{folder}: {len(unknown)} tensors do not fit the base, e.g. {unknown[0]}.")
    with torch.no_grad():
        for name, stored in full.items():
            plain[name].copy_(read_tensor(stored))


def load_adapter(
    model: PreTrainedModel, config: LoraConfig, adapters: Mapping[str, Stored], folder: Path
) -> None:
    """Inject a peft adapter, with every tensor of the file used and none missing.

    Args:
        model: the base, changed in place.
        config: of the adapter. Fully trained modules are not replaced: their tensors are copied
            into the base by `load_full_weights`.
        adapters: its tensors by peft's names.
        folder: of the adapter, for the message.

    Raises:
        UserError: the adapter does not fit the base.
    """
    config = fit_to(model, config, adapters, folder)
    with quiet_patterns(), shaped_stacks(model), bitsandbytes_unless_imported():
        inject_adapter_in_model(config, model, "default")
    use_faster_forwards(model)
    state = {name: read_tensor(stored) for name, stored in adapters.items()}
    expected = set(get_peft_model_state_dict(model, adapter_name="default"))
    if expected != set(state):
        wrong = sorted(expected.symmetric_difference(state))
        raise UserError(
            f"{folder}: the adapter does not fit the base ({len(wrong)} tensors differ, e.g. "
            f"{wrong[0]})."
        )
    set_peft_model_state_dict(model, state, adapter_name="default")
