"""peft's LoRA layer as one autograd step: fewer passes over its output, fewer saved tensors."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dsvl_tune.kernels.onednn_linear import OneDnnLinear, linear


class LoraFunction(torch.autograd.Function):
    """y = x W^T + bias + scaling (x A^T) B^T, W and bias frozen (arXiv 2106.09685, section 4.1).

    Sums are formed in place, forward and backward. peft's own expression allocates the adapter's
    output, its scaled copy and the sum as three tensors of y's size.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        """Compute y.

        Args:
            ctx: of autograd.
            x: [..., K] float32.
            weight: [N, K] float32.
            bias: [N] float32, or None.
            a: [R, K] float32.
            b: [N, R] float32.
            scaling: of the adapter.

        Returns:
            [..., N] float32.
        """
        inner = linear(x, a)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scaling = scaling
        y = linear(x, weight, bias)
        y.flatten(0, -2).addmm_(inner.flatten(0, -2), b.t(), alpha=scaling)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, a and b from that of y, [..., N] float32."""
        x, weight, a, b, inner = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_inner = linear(rows, b.t() * ctx.scaling)
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = linear(rows, weight.t()).addmm_(grad_inner, a).view_as(x)
        if ctx.needs_input_grad[3]:
            grad_a = grad_inner.t() @ x.flatten(0, -2)
        if ctx.needs_input_grad[4]:
            grad_b = (rows.t() @ inner.flatten(0, -2)).mul_(ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None


class FusedLoraLinear(PeftLoraLinear):
    """peft's LoRA layer, fused in the plain case; everything else takes peft's own forward."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """From [..., in_features] to [..., out_features], in the dtype of peft's own forward."""
        name = None if args or kwargs else self.plain_adapter(x)
        if name is None:
            return super().forward(x, *args, **kwargs)
        base = self.base_layer
        a = self.lora_A[name].weight
        b = self.lora_B[name].weight
        return LoraFunction.apply(x, base.weight, base.bias, a, b, self.scaling[name])

    def plain_adapter(self, x: Tensor) -> str | None:
        """The name of the one active adapter if the fused forward applies, else None.

        It applies to one unmerged float32 adapter without dropout on a frozen float32 base. DoRA
        and other variants, adapters with bias, transposed, quantized and 16-bit bases do not fit:
        peft casts there, and autocast has to be considered.

        Args:
            x: [..., in_features], the layer's input.
        """
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1:
            return None
        if torch.is_autocast_enabled(x.device.type):
            return None
        name = active[0]
        base = self.base_layer
        dropout = self.lora_dropout[name]
        is_plain = (
            type(base) in (nn.Linear, OneDnnLinear)
            and not base.weight.requires_grad
            and not (base.bias is not None and base.bias.requires_grad)
            and name not in self.lora_variant
            and not self.lora_bias[name]
            and not self.fan_in_fan_out
            and (isinstance(dropout, nn.Identity) or not dropout.training)
            and x.dtype == base.weight.dtype == self.lora_A[name].weight.dtype == torch.float32
        )
        return name if is_plain else None
