"""A LoRA layer of peft as one step of autograd: fewer passes over its output, and nothing kept but what must be."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dsvl_tune.kernels.onednn_linear import FullWidthLinear, product


class LoraProduct(torch.autograd.Function):
    """y = x W^T + bias + scaling (x A^T) B^T with frozen W and bias; added up in place, forward and backward.

    peft's own expression makes the adapter's output, its scaled copy and the sum as three tensors of y's size.
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
        """From [..., K]; weight [N, K], a [R, K], b [N, R]; to [..., N]; one dtype for all."""
        inner = product(x, a)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scaling = scaling
        y = product(x, weight, bias)
        y.flatten(0, -2).addmm_(inner.flatten(0, -2), b.t(), alpha=scaling)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_inner = product(rows, b.t() * ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = product(rows, weight.t()).addmm_(of_inner, a).view_as(x)
        of_a = of_inner.t() @ x.flatten(0, -2) if ctx.needs_input_grad[3] else None
        of_b = (
            (rows.t() @ inner.flatten(0, -2)).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        )
        return of_x, None, None, of_a, of_b, None


class FusedLoraLinear(PeftLoraLinear):
    """peft's LoRA layer, fused where it is plain; whatever else it can do goes through peft's own forward."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = None if args or kwargs else self.plain_adapter(x)
        if name is None:
            return super().forward(x, *args, **kwargs)
        base = self.base_layer
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return LoraProduct.apply(x, base.weight, base.bias, a, b, self.scaling[name])

    def plain_adapter(self, x: Tensor) -> str | None:
        """The one adapter to add to a frozen base, all of it float32, unmerged and without dropout; else None.

        Not plain are DoRA and the other variants, a bias in the adapter, transposed, quantised and 16-bit bases: there
        peft casts, and autocast has a say too.
        """
        active = [name for name in self.active_adapters if name in self.lora_A]
        if (
            self.disable_adapters
            or self.merged
            or len(active) != 1
            or torch.is_autocast_enabled(x.device.type)
        ):
            return None
        name = active[0]
        base, dropout = self.base_layer, self.lora_dropout[name]
        plain = (
            type(base) in (nn.Linear, FullWidthLinear)
            and not base.weight.requires_grad
            and not (base.bias is not None and base.bias.requires_grad)
            and name not in self.lora_variant
            and not self.lora_bias[name]
            and not self.fan_in_fan_out
            and (isinstance(dropout, nn.Identity) or not dropout.training)
            and x.dtype == base.weight.dtype == self.lora_A[name].weight.dtype == torch.float32
        )
        return name if plain else None
