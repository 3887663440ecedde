"""SwiGLU, the decoder's gated activation, keeping only its two inputs for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaMLP


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up (arXiv 2002.05202, section 2).

    silu(gate) is recomputed in the backward pass, which saves one tensor of the MLP's width per
    layer.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Compute the product.

        Args:
            ctx: of autograd.
            gate: [..., I], any floating dtype.
            up: [..., I], same dtype.

        Returns:
            [..., I], same dtype.
        """
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of gate and up, each [..., I], same dtype.

        Args:
            ctx: of autograd.
            grad: [..., I], same dtype, of the product.
        """
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, grad_up


class LeanLlamaMLP(LlamaMLP):
    """transformers' Llama MLP with `SwiGLU`."""

    def forward(self, x: Tensor) -> Tensor:
        """From [..., D] to [..., D], same dtype."""
        if self.config.hidden_act != "silu":
            return super().forward(x)
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))
