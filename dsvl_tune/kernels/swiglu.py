"""The decoder's gated activation, keeping its two inputs and nothing between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaMLP


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up; silu(gate) is made again in the backward pass, a tensor of the widest kind a layer less."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Both [..., I], and the result."""
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), of_up


class LeanLlamaMLP(LlamaMLP):
    """transformers' MLP of the decoder."""

    def forward(self, x: Tensor) -> Tensor:
        if self.config.hidden_act != "silu":
            return super().forward(x)
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))
