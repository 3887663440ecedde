"""The files of an adapter folder: what a run trained, as peft has it as far as peft can hold it.

An adapter whose name differs in earlier releases of transformers is there under both names, because
peft translates none. Modules that were trained as a whole have current names alone: with earlier
releases peft raises.

| what was trained | settings | weights | plain peft |
|---|---|---|---|
| adapters, and whole modules | `adapter_config.json` | `adapter_model` | loads all |
| adapters, and what peft cannot hold | `dsvl_adapter_config.json` | both | raises |
| parts as a whole, no adapters | none | `full_parts` | raises |

A folder that peft could load in part only has its settings under a name that peft does not know.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig

from dsvl_tune.core.checkpoint.weight_headers import Stored
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Family
from dsvl_tune.models.checkpoint.weights import read_floating_header, read_tensor
from dsvl_tune.models.finetuning.adapter_files import check_adapters, read_adapter_config

PEFT_CONFIG = "adapter_config.json"
OWN_CONFIG = "dsvl_adapter_config.json"
"""peft's settings under a name that peft does not read."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FULL_WEIGHTS = "full_parts.safetensors"
"""Fully trained tensors under their names in the base checkpoint."""
PREFIX = "base_model.model."
"""Of every tensor in peft's file: the path to the base in a `PeftModel`."""


def base_name(name: str) -> str:
    """The name of a parameter in the base, from its name below peft's wrappers."""
    return re.sub(r"(\.base_layer)+\.", ".", name)


class TrainedFiles(NamedTuple):
    """What an adapter folder holds.

    Attributes:
        config: of the adapters; None without any.
        adapters: tensors of adapters, by peft's names for them in the base.
        full: fully trained tensors, by their names in the base checkpoint.
    """

    config: LoraConfig | None
    adapters: dict[str, Stored]
    full: dict[str, Stored]


def open_trained(folder: Path, family: Family) -> TrainedFiles:
    """Read the settings and headers of an adapter folder.

    Args:
        folder: of the adapter.
        family: of the base, which knows the names that earlier releases of transformers have.

    Raises:
        UserError: nothing trained there, a damaged file, tensors that are not floating, adapters
            that are not LoRA or do not fit their settings, or one under two names with different
            values.
    """
    config = None
    adapters: dict[str, Stored] = {}
    full: dict[str, Stored] = {}
    settings = next(
        (folder / name for name in (PEFT_CONFIG, OWN_CONFIG) if (folder / name).is_file()), None
    )
    if settings is not None:
        config = read_adapter_config(settings)
        modules = tuple(f"{name}." for name in config.modules_to_save or ())
        for stored_name, stored in read_floating_header(folder / ADAPTER_WEIGHTS).items():
            name = stored_name.removeprefix(PREFIX)
            is_full = name.startswith(modules) and "lora_" not in name
            if is_full:
                full[name] = stored
            else:
                _add_adapter(adapters, family.current_name(name), stored)
        check_adapters(config, adapters, settings)
    if (folder / FULL_WEIGHTS).is_file():
        full |= read_floating_header(folder / FULL_WEIGHTS)
    if not adapters and not full:
        raise UserError(
            f"{folder}: neither an adapter ({PEFT_CONFIG}) nor {FULL_WEIGHTS} there. Give a "
            "finished run or its adapter."
        )
    return TrainedFiles(config, adapters, full)


def _add_adapter(adapters: dict[str, Stored], name: str, stored: Stored) -> None:
    """Add a tensor under its current name; it may be there already, from a copy for other releases.

    Args:
        adapters: by their current names; extended in place.
        name: of the tensor in current transformers.
        stored: its header.

    Raises:
        UserError: the copies differ.
    """
    known = adapters.setdefault(name, stored)
    if known is stored:
        return
    same = (known.dtype, known.shape) == (stored.dtype, stored.shape)
    if not same or not torch.equal(read_tensor(known), read_tensor(stored)):
        raise UserError(
            f"{stored.path}: {known.name} and {stored.name} are the same adapter for two releases "
            "of transformers, but their values differ. Save the adapter again from the right one."
        )
