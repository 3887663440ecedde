"""A float32 model computing in float64: a reference whose own rounding is too small to matter.

float32 logits depend on the order of additions, which differs between processors, libraries and
thread counts. In float64 this effect is about 2^29 times smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Float64RMSNorm(nn.Module):
    """transformers' RMS norm without its cast to float32, which would round in every layer.

    Each of transformers' language models has a class of its own, a copy of Llama's
    (transformers/models/llama/modeling_llama.py, LlamaRMSNorm).
    """

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize and scale [..., D], in the dtype of the input."""
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        normed: Tensor = self.weight * (
            hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        )
        return normed


@contextmanager
def in_float64(model: PreTrainedModel) -> Iterator[None]:
    """Within this context, a model takes float64 pixels and computes in float64.

    Layers, embeddings and head are converted just before they run and back right after, so the
    additional memory is that of one of them. float32 -> float64 -> float32 is lossless. Rotary
    angles stay float32: they are constants of the position, the same for all compared models.

    Args:
        model: all parameters float32, with or without adapters.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    streamed = [
        *(layer for layers in lists for layer in layers),
        *(model.get_input_embeddings(), model.get_output_embeddings()),
    ]
    within = {id(parameter) for layer in streamed for parameter in layer.parameters()}
    others = [parameter for parameter in model.parameters() if id(parameter) not in within]
    norms = {module: type(module) for module in model.modules() if is_rms_norm(module)}
    hooks = []
    try:
        for layer in streamed:
            hooks.append(layer.register_forward_pre_hook(widen))
            hooks.append(layer.register_forward_hook(narrow, always_call=True))
        for norm in norms:
            norm.__class__ = Float64RMSNorm
        convert(others, torch.float64)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, own_class in norms.items():
            norm.__class__ = own_class
        convert(model.parameters(), torch.float32)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is a copy of Llama's norm."""
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def widen(module: nn.Module, *_: Any) -> None:
    """Forward pre-hook: the module's parameters to float64."""
    convert(module.parameters(), torch.float64)


def narrow(module: nn.Module, *_: Any) -> None:
    """Forward hook: back to float32."""
    convert(module.parameters(), torch.float32)


def convert(parameters: Any, dtype: torch.dtype) -> None:
    """Change the dtype of parameters; the Parameter objects stay."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
