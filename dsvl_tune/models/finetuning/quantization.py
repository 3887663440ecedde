"""The language model's linear layers and experts in 4 bits, as in QLoRA: nf4, double quantization.

bitsandbytes does it, and transformers replaces the linear layers; stacked experts, which neither
knows, are ours. Weights are packed one by one as they are read, so the 16-bit model is never in
memory as a whole. Everything else (embeddings, norms, routers, lm_head, aligner, vision towers)
keeps its dtype: `prepare_model_for_kbit_training` of peft would make all of it float32, and pixels
in bfloat16 would then not fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Parts, Plan, Shapes, part_of
from dsvl_tune.families import family_of_model
from dsvl_tune.families.experts import StackedExperts
from dsvl_tune.models.finetuning.four_bit_experts import pack_stack
from dsvl_tune.models.finetuning.trained_files import base_name

Quantization = Literal["nf4"]
BLOCK = 64
"""Parameters that share a scale."""

NF4_BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * 256)
"""Bytes that a quantized parameter takes, 0.516: half a byte, a scale of one byte for each block,
and a float32 for each 256 of these scales (arXiv 2305.14314, section 3). The tables of a layer,
1.1 kB, are left out."""

# transformers matches these from the start of a module's full name, or as its end: a bare
# "vision_model" would hit nothing and leave the encoder in 4 bits, and a list without lm_head
# quantizes that too.
KEPT = ["lm_head", r"model\.(?!language_model\.).*"]


def quantized_parts(parts: Parts) -> list[str]:
    """The parts whose linear layers or experts are quantized."""
    found = [name for name, part in parts.items() if part.quantizable]
    assert found, "a family has a part that can be quantized"
    return found


def quantized_weights(parts: Parts) -> re.Pattern[str]:
    """The full names of the tensors that are quantized."""
    own = [parts[name] for name in quantized_parts(parts)]
    return re.compile(
        "|".join(
            f"({part.lora_targets})" if part.is_experts else rf"({part.lora_targets})\.weight"
            for part in own
        )
    )


def quantization_of(preset: str, given: Quantization | None) -> Quantization | None:
    """What a recipe quantizes to: the preset qlora implies it."""
    return "nf4" if preset == "qlora" else given


def check_quantization(plan: Plan, parts: Parts) -> None:
    """Compare a plan with a 4-bit base, before anything is loaded.

    Args:
        plan: for every part of the family.
        parts: of the family.

    Raises:
        UserError: a part in 4 bits is to be fully trained, or bitsandbytes is not installed.
    """
    full = [part for part in quantized_parts(parts) if plan[part].mode == "full"]
    if full:
        raise UserError(
            f"model.parts: {full[0]} is to be fully trained, but model.quantization puts its base "
            "into 4 bits, which cannot train. Use mode lora or frozen, or leave the quantization "
            "out."
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantization nf4 needs bitsandbytes, which is not installed: pip install "
            "'bitsandbytes>=0.50'"
        )


def check_widths(shapes: Shapes, parts: Parts, folder: Path) -> None:
    """Refuse weights that bitsandbytes cannot compute with.

    A block of 64 must not reach over the end of a row: where it does, bitsandbytes 0.50.2 quantizes
    correctly, but its AVX-512 kernel unpacks with the scales of other blocks (errors of 0.2 to 0.4
    of the weights were seen, instead of 0.09).

    Args:
        shapes: of the checkpoint's tensors.
        parts: of the family.
        folder: of the checkpoint, for the message.

    Raises:
        UserError: naming the first layer whose inputs are no multiple of 64.
    """
    quantized = quantized_weights(parts)
    for name, shape in shapes.items():
        if quantized.fullmatch(name) and shape[-1] % BLOCK:
            raise UserError(
                f"{folder}: {name} has rows of {shape[-1]}, and a 4-bit base needs multiples of "
                f"{BLOCK}, as all published checkpoints have. Leave model.quantization out."
            )


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """The quantization, as transformers takes it.

    Args:
        dtype: of the tensors that are not quantized. Layers compute in bfloat16 if it is that, else
            in float32.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
        # FSDP2 shards it; in bfloat16 some bit patterns would be NaN.
        bnb_4bit_quant_storage=torch.uint8,
        llm_int8_skip_modules=KEPT,
    )


def empty_layers(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give a model on the meta device its 4-bit layers, still empty.

    Args:
        model: changed in place.
        dtype: of the tensors that are not quantized.
    """
    quantizer = AutoHfQuantizer.from_config(nf4_config(dtype), pre_quantized=False)
    quantizer.preprocess_model(model, dtype=dtype, device_map={"": "cpu"})
    quantizer.postprocess_model(model)
    for layer in four_bit_layers(model).values():
        packed = torch.empty(layer.weight.numel() // 2, 1, dtype=torch.uint8, device="meta")
        layer.weight = nn.Parameter(packed, requires_grad=False)
    parts = family_of_model(model).parts
    for name, module in model.named_modules():
        if isinstance(module, StackedExperts) and parts[part_of(f"{name}.", parts)].quantizable:
            pack_stack(module)
    finish_quantization(model)


def finish_quantization(model: PreTrainedModel) -> None:
    """Check that the right layers will be in 4 bits, and that they will stay as they are.

    On CPUs with AVX-512 BF16, bitsandbytes would repack a layer in place the first time it computes
    without gradient, into a form through which no gradient flows: a run would silently stop
    training at its first validation.
    """
    assert_census(model)
    for layer in four_bit_layers(model).values():
        # A plain attribute of bitsandbytes' class.
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def four_bit_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every layer in 4 bits by its name."""
    from bitsandbytes.nn import Linear4bit  # an extra: only a quantized model needs it

    return {
        name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)
    }


def four_bit_weights(model: nn.Module) -> list[str]:
    """The names in the base of all tensors in 4 bits, those of layers and of experts."""
    return [
        base_name(name)
        for name, parameter in model.named_parameters()
        if parameter.dtype == torch.uint8
    ]


def assert_census(model: PreTrainedModel) -> None:
    """Every linear layer and expert of the language model is in 4 bits, and nothing else is."""
    parts = family_of_model(model).parts
    quantized = quantized_weights(parts)
    found = set(four_bit_weights(model))
    names = [name for name, _ in model.named_parameters()]
    wanted = {name for name in names if quantized.fullmatch(name)}
    possible = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if path.startswith("model.language_model.")
        and isinstance(module, (nn.Linear, StackedExperts))
        for name, _ in module.named_parameters(recurse=False)
        if name != "bias"
    }
    assert wanted == possible
    if found != wanted:
        where = ", ".join(quantized_parts(parts))
        census = dict(Counter(part_of(name, parts) for name in found))
        raise RuntimeError(
            f"in 4 bits are {census}, expected {len(wanted)} weights of {where} alone"
        )


def parameter_sizes(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Name, tensor and true number of parameters: two to a byte in 4 bits."""
    for name, parameter in model.named_parameters():
        packed = parameter.dtype == torch.uint8
        yield name, parameter, parameter.numel() * (2 if packed else 1)
