"""Faster forwards for the layers of transformers and peft, put on the modules that are there.

Only the class of a module changes, to a subclass without a parameter of its own: names, state dicts, adapters, exports,
checkpointing and sharding are what they were. Results are equal up to the order of additions.
"""

from __future__ import annotations

from peft.tuners.lora.layer import Linear as PeftLoraLinear
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from dsvl_tune.kernels.lora_linear import FusedLoraLinear
from dsvl_tune.kernels.onednn_linear import FullWidthLinear
from dsvl_tune.kernels.relative_position_attention import FoldedSamAttention
from dsvl_tune.kernels.swiglu import LeanLlamaMLP

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FullWidthLinear,
    LlamaMLP: LeanLlamaMLP,
    PeftLoraLinear: FusedLoraLinear,
    SamVisionSdpaAttention: FoldedSamAttention,
}


def install_kernels(model: nn.Module) -> None:
    """Give every layer that has a faster forward that one; in place, as often as one likes.

    Classes are matched exactly: a quantised linear layer, or an adapter on one, keeps its own forward.
    """
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
