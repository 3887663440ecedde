"""The files of a peft adapter, which may come from anyone, checked before anything is made of them.

peft takes most values as they are: it matches regular expressions that may never end, imports the
module that `megatron_core` names, changes the base's weights for some values of `init_lora_weights`
and converts tensors of any dtype. Here only what LoRA, rsLoRA and DoRA on linear layers need, and
LoRA and rsLoRA on stacked experts, is accepted; everything else is refused by file and key.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig

from dsvl_tune.core.checkpoint.weight_headers import Stored, read_json
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.limits import ProgramFailed, first_fitting

IGNORED = {
    "peft_type",
    "peft_version",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
}
"""Keys of adapter_config.json that say nothing about what the tensors mean."""
READ = {
    "r",
    "lora_alpha",
    "target_modules",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "modules_to_save",
}
INITS = (True, False, "gaussian", "orthogonal")
"""Ways to draw adapters that leave the base's weights alone."""
MOST_RANK = 65_536
TENSOR = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?",
)


def read_adapter_config(path: Path) -> LoraConfig:
    """The configuration of an adapter, by its file; nothing is imported or matched.

    Args:
        path: of the file.

    Raises:
        UserError: a key is missing, has a value out of its bounds, or asks for something else than
            LoRA, rsLoRA or DoRA.
    """
    settings = read_json(path)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {settings.get('peft_type')!r}, expected 'LORA'.")
    _check_settings(path, settings)
    neutral = LoraConfig().to_dict()
    for key in sorted(settings.keys() - IGNORED - READ):
        value, unset = settings[key], neutral.get(key)
        if (value or unset) and value != unset:
            raise UserError(
                f"{path}: {key} is {str(value)[:60]!r}. Only LoRA, rsLoRA and DoRA on linear "
                "layers can be loaded and merged."
            )
    return LoraConfig(**{key: settings[key] for key in READ if key in settings})


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise on a value of a key in `READ` that an adapter cannot have."""

    def refuse(key: str, expected: str) -> UserError:
        found = str(settings.get(key))[:60]
        return UserError(f"{path}: {key} is {found!r}, expected {expected}.")

    if not _is_rank(settings.get("r")):
        raise refuse("r", f"an integer from 1 to {MOST_RANK}")
    if not _is_positive(settings.get("lora_alpha")):
        raise refuse("lora_alpha", "a number above 0")
    for key, is_value in (("rank_pattern", _is_rank), ("alpha_pattern", _is_positive)):
        pattern = settings.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(is_value, pattern.values())):
            raise refuse(key, "an object of patterns and numbers above 0")
    for key in ("use_rslora", "use_dora"):
        if not isinstance(settings.get(key, False), bool):
            raise refuse(key, "true or false")
    if settings.get("init_lora_weights", True) not in INITS:
        raise refuse(
            "init_lora_weights",
            "true, false, gaussian or orthogonal: the others change the base's weights. Convert "
            "the adapter with peft's path_initial_model_for_weight_conversion",
        )
    modules = settings.get("modules_to_save") or []
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise refuse("modules_to_save", "a list of names")
    parameters = settings.get("target_parameters") or []
    if not isinstance(parameters, list) or not all(isinstance(name, str) for name in parameters):
        raise refuse("target_parameters", "a list of names")
    targets = settings.get("target_modules") or (parameters and [])
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refuse("target_modules", "a regular expression, or a list of names")
    if not names and not parameters:
        raise refuse("target_modules", "a regular expression, or a list of names")


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RANK


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def check_adapters(config: LoraConfig, adapters: Mapping[str, Stored], path: Path) -> None:
    """Compare the tensors of adapters with their configuration.

    The ranks of adapters on stacked experts are compared where the base is known.

    Args:
        config: of the adapters.
        adapters: headers by peft's names for them in the base.
        path: of the configuration, for the message.

    Raises:
        UserError: a tensor is of another kind or rank, one of a layer is missing, or a pattern
            takes too long.
    """
    layers: dict[str, dict[str, Stored]] = defaultdict(dict)
    for name, stored in adapters.items():
        match = TENSOR.fullmatch(name)
        if match is None:
            raise UserError(
                f"{stored.path}: adapter tensor {name}: only LoRA, rsLoRA and DoRA on linear "
                "layers can be loaded and merged."
            )
        layers[match[1]][match[2]] = stored
    ranks = matched(config.rank_pattern, list(layers), config.r, f"{path}: rank_pattern")
    matched(config.alpha_pattern, list(layers), config.lora_alpha, f"{path}: alpha_pattern")
    for layer, tensors in layers.items():
        file = next(iter(tensors.values())).path
        rank = None if wraps_parameters(config, layer) else int(ranks[layer])
        _check_layer(file, layer, tensors, rank, config.use_dora)


def wraps_parameters(config: LoraConfig, layer: str) -> bool:
    """Whether the adapter of a layer is of a parameter, not of a linear layer.

    Args:
        config: of the adapter.
        layer: its name in peft's file, such as "layers.1.mlp.experts.base_layer".
    """
    module = f".{layer.partition('.base_layer')[0]}"
    parents = (target.rpartition(".")[0] for target in config.target_parameters or ())
    return any(parent and module.endswith(f".{parent}") for parent in parents)


def _check_layer(
    path: Path, layer: str, tensors: Mapping[str, Stored], rank: int | None, dora: bool
) -> None:
    """Raise unless a layer has its tensors, in shapes that make an adapter of that rank.

    Args:
        path: of the file, for the message.
        layer: name of the adapted layer.
        tensors: of the layer, by kind.
        rank: that the configuration gives it; None leaves it open.
        dora: whether it has a magnitude.
    """
    kinds = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if dora else set())
    if wrong := sorted(kinds ^ set(tensors)):
        state = "is missing" if wrong[0] in kinds else "is there, but use_dora is not true"
        raise UserError(f"{path}: {wrong[0]} of {layer} {state}. Copy the adapter again.")
    a, b = tensors["lora_A"].shape, tensors["lora_B"].shape
    if rank is None and a:
        rank = a[0]
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise UserError(
            f"{path}: lora_A and lora_B of {layer} have shapes {list(a)} and {list(b)}; of rank "
            f"{rank}, as its settings say, they are [{rank}, inputs] and [outputs, {rank}]."
        )
    if dora and tensors["lora_magnitude_vector"].shape != b[:1]:
        raise UserError(
            f"{path}: lora_magnitude_vector of {layer} has shape "
            f"{list(tensors['lora_magnitude_vector'].shape)}, expected {list(b[:1])}."
        )


def matched(
    patterns: Mapping[str, Any] | None, layers: list[str], default: Any, place: str
) -> dict[str, Any]:
    """What a configuration's patterns give each layer, as peft matches them.

    Args:
        patterns: regular expressions of the ends of names, and values.
        layers: names.
        default: of layers that no pattern fits.
        place: of the patterns, for the message.

    Raises:
        UserError: a pattern is faulty or takes too long.
    """
    if not patterns:
        return dict.fromkeys(layers, default)
    whole = [rf"(.*\.)?({pattern})$" for pattern in patterns]
    values = list(patterns.values())
    try:
        fitting = first_fitting(whole, layers)
    except ProgramFailed as error:
        raise UserError(f"{place}: a pattern cannot be matched ({error}).") from None
    return {
        layer: default if index is None else values[index]
        for layer, index in zip(layers, fitting, strict=True)
    }


def target_layers(config: LoraConfig, layers: list[str], place: str) -> set[str]:
    """The layers that a configuration targets, as peft matches them.

    Args:
        config: of the adapter.
        layers: names of the base's linear layers.
        place: of the configuration, for the message.

    Raises:
        UserError: the pattern is faulty or takes too long.
    """
    targets = config.target_modules
    if targets == "all-linear":
        return set(layers)
    if not isinstance(targets, str):
        return {name for name in layers if any(f".{name}".endswith(f".{end}") for end in targets)}
    try:
        fitting = first_fitting([targets], layers)
    except ProgramFailed as error:
        raise UserError(f"{place}: target_modules cannot be matched ({error}).") from None
    return {name for name, index in zip(layers, fitting, strict=True) if index is not None}
