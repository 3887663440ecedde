"""Float32 linear layers at the full vector width of the processor.

torch computes float32 matrix products by MKL, which does not use AVX-512 on AMD processors. oneDNN,
which torch ships for its convolutions, does: twice the rate (docs/figures.md).
`mkldnn._linear_pointwise` is torch's operator for such a product, made for torch.compile; it has no
gradient of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CPU_INFO = Path("/proc/cpuinfo")
ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and CPU_INFO.is_file()
    and "AuthenticAMD" in CPU_INFO.read_text(encoding="utf-8")
)
"""Whether oneDNN is the faster library on this machine."""
MIN_ROWS = 32
"""Fewer rows with a small weight: preparing the call costs more than it saves (measured with 16
rows of 128)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` without autograd, by the faster library.

    Args:
        x: [..., K], floating.
        weight: [N, K], same dtype.
        bias: [N], same dtype, or None.

    Returns:
        [..., N], same dtype.
    """
    if not fits_onednn(x, weight):
        return F.linear(x, weight, bias)
    y = onednn_linear(x.flatten(0, -2), weight, bias)
    # Not a view, as the result of `F.linear` is none.
    return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op(
    "dsvl_tune::onednn_linear",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)
def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's linear layer, opaque to torch.compile, which inlines it for constant weights only.

    Args:
        x: [M, K] float32.
        weight: [N, K] float32.
        bias: [N] float32, or None.

    Returns:
        [M, N] float32.
    """
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # oneDNN is a thousand times slower on rows with gaps
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@onednn_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product's shape [M, N] float32, for torch.compile."""
    # `len` would specialize on the sizes, and compile anew for each.
    return x.new_empty(x.shape[0], weight.shape[0])


def fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product: float32, on a CPU where it is faster, enough rows.

    Args:
        x: [..., K].
        weight: [N, K].
    """
    return (
        ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= MIN_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")  # which would make it 16-bit
    )


class LinearFunction(torch.autograd.Function):
    """`linear` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., K], weight [N, K], bias [N] or None, all float32, to [..., N]."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias from that of the result, [..., N] float32."""
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_x = linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = linear(rows.t(), x.flatten(0, -2).t())
        grad_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


class OneDnnLinear(nn.Linear):
    """nn.Linear that calls oneDNN where it is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """From [..., in_features] to [..., out_features], same dtype."""
        if not fits_onednn(x, self.weight):
            return super().forward(x)
        return LinearFunction.apply(x, self.weight, self.bias)
