"""Faster forwards for layers of transformers and peft, installed on existing modules.

Only a module's class changes, to a subclass without parameters of its own: names, state dicts,
adapters, exports, activation checkpointing and sharding stay the same. Results are equal up to the
order of additions.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from peft.tuners.lora.layer import Linear as PeftLoraLinear
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from dsvl_tune.kernels.lora_linear import FusedLoraLinear
from dsvl_tune.kernels.onednn_linear import OneDnnLinear
from dsvl_tune.kernels.relative_position_attention import BlockedSamAttention
from dsvl_tune.kernels.swiglu import LeanLlamaMLP

Kernels = Literal["auto", "off"]
"""Faster forwards where they fit, or each layer's own."""

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: OneDnnLinear,
    LlamaMLP: LeanLlamaMLP,
    PeftLoraLinear: FusedLoraLinear,
    SamVisionSdpaAttention: BlockedSamAttention,
}
"""Class of a layer -> the subclass with a faster forward."""


@cache
def avoid_broken_attention() -> None:
    """Leave torch's fused attention in bfloat16 out on a CPU where it raises; once a process.

    torch 2.13 packs operands for AVX-512 by what the processor has, in code that was compiled for
    what `ATEN_CPU_CAPABILITY` allows: with AVX2 alone on a processor with AVX-512 it raises
    "pack_vnni2 is only supported when avx512 is supported". Unfused attention gives the same.
    """
    if torch.cuda.is_available():  # the switch would hold for the GPU, too
        return
    probe = torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
    try:
        F.scaled_dot_product_attention(probe, probe, probe)
    except RuntimeError:
        torch.backends.cuda.enable_flash_sdp(False)  # of the CPU as well, by its name


def install_kernels(model: nn.Module) -> None:
    """Give every layer in `FASTER` its faster forward, in place; may be called repeatedly.

    Classes are matched exactly: a quantized linear layer, or an adapter on one, keeps its own
    forward.

    Args:
        model: any module.
    """
    avoid_broken_attention()
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))


def remove_kernels(model: nn.Module) -> None:
    """Give every layer its own forward again, in place.

    Args:
        model: any module.
    """
    own = {faster: layer for layer, faster in FASTER.items()}
    for module in model.modules():
        module.__class__ = own.get(type(module), type(module))
