"""Float32 products with a weight matrix, at the full vector width of the processor.

torch gives float32 products to MKL, which leaves AVX-512 unused on AMD's processors. oneDNN, which torch carries for
its convolutions, uses it: twice the rate (ARCHITECTURE has figures). `mkldnn._linear_pointwise` is torch's operator for
such a product, made for torch.compile; it has no gradient of its own.
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
MIN_ROWS = 32
"""With fewer and a small weight, oneDNN spends more on preparing a call than it gains (measured: 16 rows of 128)."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` outside autograd, by the faster library.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        [..., N].
    """
    if fits_onednn(x, weight):
        y = onednn_product(x.flatten(0, -2), weight, bias)
        return torch.ops.aten._unsafe_view(
            y, (*x.shape[:-1], weight.shape[0])
        )  # not a view, as `F.linear` gives none
    return F.linear(x, weight, bias)


@torch.library.custom_op(
    "dsvl_tune::onednn_product",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)
def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[M, K] and [N, K] to [M, N], closed to torch.compile, which takes what is within for constant weights alone."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = (
            weight.contiguous()
        )  # gaps between rows send oneDNN to code that is a thousand times slower
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@onednn_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(
        x.shape[0], weight.shape[0]
    )  # `len` would fix the sizes, and compile anew for each


def fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Float32 on a CPU where oneDNN is the faster one, enough rows, and no autocast that would make it 16-bit."""
    return (
        ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= MIN_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
    )


class LinearProduct(torch.autograd.Function):
    """`product` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = product(rows.t(), x.flatten(0, -2).t()) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


class FullWidthLinear(nn.Linear):
    """A linear layer that takes the faster library; everything else about it is nn.Linear's."""

    def forward(self, x: Tensor) -> Tensor:
        if not fits_onednn(x, self.weight):
            return super().forward(x)
        return LinearProduct.apply(x, self.weight, self.bias)
