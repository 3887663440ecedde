"""The language model's linear layers in 4 bits, as QLoRA has them: nf4 with double quantisation, by bitsandbytes.

transformers replaces the layers and quantises them one by one while their weights stream in, so the 16-bit model is
never in memory as a whole. Everything else (embeddings, norms, lm_head, aligner, both towers) keeps its dtype:
`prepare_model_for_kbit_training` of peft would make all of it float32, and pixels in bfloat16 would then not fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.deepseek_vl.parts import LORA_TARGETS, Plan, Preset, part_of
from dsvl_tune.models.checkpoint.weights import Weights

Quantization = Literal["nf4"]
PART = "language_model"
"""The part whose linear layers are quantised."""

BLOCK = 64
"""Parameters that share a scale."""

NF4_BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * 256)
"""Bytes that a quantised parameter takes, 0.516: half a byte, a scale of one byte for each block, and a float32 for
each 256 of these scales (arXiv 2305.14314, section 3). A layer's tables, 1.1 kB, are left out."""

# transformers matches these from the start of a module's full name, or as its end: a bare "vision_model" would hit
# nothing and leave the encoder in 4 bits, and a list without lm_head quantises that too.
KEPT = ["lm_head", rf"model\.(?!{PART}\.).*"]


def quantization_of(preset: Preset, given: Quantization | None) -> Quantization | None:
    """What a recipe quantises to: the preset qlora says it by its name."""
    return "nf4" if preset == "qlora" else given


def check_quantization(plan: Plan) -> None:
    """Hold a plan against a 4-bit base, before anything is loaded.

    Raises:
        UserError: the part in 4 bits is to be fully trained, or bitsandbytes is not installed.
    """
    if plan[PART].mode == "full":
        raise UserError(
            f"model.parts: {PART} is to be fully trained, but model.quantization puts its base into 4 bits, which "
            "cannot be. Use mode lora or frozen, or leave the quantisation out."
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantization nf4 needs bitsandbytes, which is not installed: pip install 'bitsandbytes>=0.50'"
        )


def check_widths(weights: Weights) -> None:
    """Hold a checkpoint's layers against what bitsandbytes can compute.

    A block of 64 may not reach over the end of a row: where it does, bitsandbytes 0.50.2 quantises rightly and its
    AVX-512 kernel unpacks with other blocks' scales (errors of 0.2 to 0.4 of the weights were seen, in place of 0.09).

    Raises:
        UserError: naming the first layer whose inputs are no multiple of 64.
    """
    for name, shape in weights.shapes.items():
        if re.fullmatch(rf"({LORA_TARGETS[PART]})\.weight", name) and shape[1] % BLOCK:
            raise UserError(
                f"{weights.folder}: {name} has rows of {shape[1]}, and a 4-bit base needs multiples of {BLOCK}, as all "
                "published checkpoints have. Leave model.quantization out."
            )


class OnDemand:
    """A tensor of a checkpoint that is read when `[...]` asks for it, as transformers asks safetensors' slices."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.weights, self.name = weights, name

    def __getitem__(self, index: Any) -> Tensor:
        return self.weights.read(self.name)[index]


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """The quantisation, as transformers takes it.

    Args:
        dtype: of the tensors that are not quantised; layers compute in it if it is bfloat16, else in float32.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
        bnb_4bit_quant_storage=torch.uint8,  # FSDP2 shards it; in bfloat16 some bit patterns would be NaN
        llm_int8_skip_modules=KEPT,
    )


def pack(weight: Tensor) -> Any:
    """A weight in 4 bits: bitsandbytes' Params4bit, [P, 1] uint8 of two parameters each, its scales as `quant_state`.

    Args:
        weight: [N, K], the whole of it: the mean of all scales is taken off before these are quantised themselves. On
            the CPU, so that the bits are the same whatever the model is trained on.
    """
    from bitsandbytes.nn import Params4bit

    how = nf4_config(weight.dtype)
    packed: Any = Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=how.bnb_4bit_use_double_quant,
        quant_type=how.bnb_4bit_quant_type,
        quant_storage=how.bnb_4bit_quant_storage,
    )
    return packed.to("cpu")


def empty_layers(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give a model on the meta device the layers in 4 bits that loading would give it, their weights still to come."""
    quantizer = AutoHfQuantizer.from_config(nf4_config(dtype), pre_quantized=False)
    quantizer.preprocess_model(model, dtype=dtype, device_map={"": "cpu"})
    quantizer.postprocess_model(model)
    for layer in four_bit_layers(model).values():
        packed = torch.empty(layer.weight.numel() // 2, 1, dtype=torch.uint8, device="meta")
        layer.weight = nn.Parameter(packed, requires_grad=False)
    finish_quantization(model)


def finish_quantization(model: PreTrainedModel) -> None:
    """What is left to do after loading: see that the right layers are in 4 bits, and that they stay as they are.

    On CPUs with AVX-512 BF16 bitsandbytes would repack a layer in place the first time it answers without gradient,
    into a form through which no gradient flows: a run would stop learning, silently, at its first validation.
    """
    assert_census(model)
    for layer in four_bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a plain attribute of bitsandbytes' class


def four_bit_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every layer in 4 bits by its name."""
    from bitsandbytes.nn import Linear4bit  # an extra: only a quantised model needs it

    return {
        name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)
    }


def assert_census(model: PreTrainedModel) -> None:
    """The seven linear layers of each of the language model's layers are in 4 bits, and nothing else is."""
    found = set(four_bit_layers(model))
    wanted = {name for name, _ in model.named_modules() if re.fullmatch(LORA_TARGETS[PART], name)}
    assert len(wanted) == 7 * model.config.text_config.num_hidden_layers
    if found != wanted:
        census = dict(Counter(part_of(f"{name}.weight") for name in found))
        raise RuntimeError(f"in 4 bits are {census}, expected {len(wanted)} layers of {PART} alone")


def parameter_sizes(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Name, tensor and true number of parameters: two to a byte where a layer is in 4 bits."""
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.Linear) and parameter.dtype == torch.uint8:
            yield name, parameter, layer.in_features * layer.out_features
        else:
            yield name, parameter, parameter.numel()
