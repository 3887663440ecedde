"""Whether an adapter, which may come from anyone, fits a base: every layer there, of its size."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint.weight_headers import Stored
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Shapes
from dsvl_tune.models.finetuning.adapter_files import matched, target_layers
from dsvl_tune.models.finetuning.expert_adapters import wrapped_parameters
from dsvl_tune.models.finetuning.four_bit_experts import shaped_stacks


def fit_to(
    model: PreTrainedModel, config: LoraConfig, adapters: Mapping[str, Stored], folder: Path
) -> LoraConfig:
    """Compare an adapter with the layers of a base, and name those in its configuration.

    peft would match the adapter's own patterns with every module, for as long as that takes.

    Args:
        model: the base.
        config: of the adapter.
        adapters: its tensors by peft's names.
        folder: of the adapter, for the message.

    Returns:
        The configuration for peft: its patterns fit the adapted layers alone, and nothing else of
        the base is replaced.

    Raises:
        UserError: a layer is missing, on either side, or of another size.
    """
    adapted = {adapted_layer(name) for name in adapters}
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    with shaped_stacks(model):
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    wrapped = wrapped_parameters(config, shapes)
    targets = target_layers(config, list(linear), str(folder))
    if config.target_modules == "all-linear":  # for peft this leaves some out
        targets &= adapted
    if wrong := sorted((targets | set(wrapped)) ^ adapted):
        problem = "has no place in the base" if wrong[0] in adapted else "is not there"
        raise UserError(
            f"{folder}: the adapter does not fit the base ({len(wrong)} layers differ, e.g. the "
            f"adapter of {wrong[0]} {problem})."
        )
    check_wrapped(config, adapters, wrapped, shapes)
    on_layers = {name: one for name, one in adapters.items() if adapted_layer(name) not in wrapped}
    check_sizes(on_layers, linear)
    plain = copy.deepcopy(config)
    plain.modules_to_save = None
    plain.target_modules = any_of(targets) or []
    names = [*targets, *wrapped.values()]
    for key in ("rank_pattern", "alpha_pattern"):
        setattr(plain, key, plain_pattern(getattr(config, key), names, f"{folder}: {key}"))
    return plain


def check_sizes(adapters: Mapping[str, Stored], layers: Mapping[str, nn.Linear]) -> None:
    """Compare the tensors of adapters with the linear layers that they are on.

    Args:
        adapters: tensors by peft's names.
        layers: of the base, by name.

    Raises:
        UserError: a layer is of another size.
    """
    for name, stored in adapters.items():
        layer = layers[adapted_layer(name)]
        axis, size = (1, layer.in_features) if ".lora_A" in name else (0, layer.out_features)
        if stored.shape[axis] != size:
            raise UserError(
                f"{stored.path}: tensor {name} has shape {list(stored.shape)}, the layer of the "
                f"base has {layer.in_features} inputs and {layer.out_features} outputs."
            )


def plain_pattern(
    patterns: Mapping[str, Any] | None, names: list[str], place: str
) -> dict[str, Any]:
    """The same values for these names, by regular expressions that fit nothing else.

    Args:
        patterns: regular expressions of the ends of names, and values.
        names: of layers and parameters.
        place: of the patterns, for the message.
    """
    by_value: dict[Any, list[str]] = defaultdict(list)
    for name, value in matched(patterns, names, None, place).items():
        if value is not None:
            by_value[value].append(name)
    return {any_of(fitting): value for value, fitting in by_value.items()}


def any_of(names: Iterable[str]) -> str:
    """A regular expression that fits these names alone."""
    return "|".join(map(re.escape, sorted(names)))


def check_wrapped(
    config: LoraConfig, adapters: Mapping[str, Stored], wrapped: Mapping[str, str], shapes: Shapes
) -> None:
    """Compare the adapters of parameters with the parameters, as `check_fits` does.

    Args:
        config: of the adapter.
        adapters: its tensors by peft's names.
        wrapped: parameters by the layer's name in the file.
        shapes: of the base's parameters.

    Raises:
        UserError: a parameter is no stack of matrices, or of another size.
    """
    ranks = matched(config.rank_pattern, list(wrapped.values()), config.r, "rank_pattern")
    for name, stored in adapters.items():
        parameter = wrapped.get(adapted_layer(name))
        if parameter is None:
            continue
        shape = shapes[parameter]
        if len(shape) != 3:
            raise UserError(
                f"{stored.path}: tensor {name} adapts {parameter}, which is no stack of experts."
            )
        experts, outputs, inputs = shape
        inner = experts * ranks[parameter]
        expected = (inner, inputs) if ".lora_A" in name else (outputs, inner)
        if stored.shape != expected:
            raise UserError(
                f"{stored.path}: tensor {name} has shape {list(stored.shape)}, expected "
                f"{list(expected)} for {experts} experts of the base's {parameter}."
            )


def adapted_layer(name: str) -> str:
    """The layer of the base that a tensor of an adapter belongs to."""
    return name.rpartition(".lora_")[0]
