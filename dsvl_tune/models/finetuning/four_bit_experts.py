"""Stacked experts in 4 bits: unpacked for one matrix product at a time, and never kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dsvl_tune.families.experts import StackedExperts, grouped_matmul


class FourBitExperts(StackedExperts):
    """What a class of experts becomes once its tensors are packed, see `pack_class`.

    A tensor [E, N, K] is one of bitsandbytes' in 4 bits, [E * N * K / 2, 1] uint8. Its scales are
    kept here and not on the tensor, which sharding replaces.

    Attributes:
        shapes: [E, N, K] of each tensor.
        quant_states: bitsandbytes' scales of each tensor.
    """

    shapes: dict[str, tuple[int, ...]]
    quant_states: dict[str, Any]

    def stack_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def compute_dtype(self, name: str) -> torch.dtype:
        dtype: torch.dtype = self.quant_states[name].dtype
        return dtype

    def matmul(self, name: str, rows: Tensor, ends: Tensor) -> Tensor:
        packed, state = getattr(self, name), self.quant_states[name]
        result: Tensor = PackedMatmul.apply(rows, packed, state, ends)
        return result


@cache
def pack_class(kind: type[StackedExperts]) -> type[FourBitExperts]:
    """The class whose instances compute as those of `kind` do, from packed tensors."""
    return type(f"FourBit{kind.__name__}", (FourBitExperts, kind), {})


class PackedMatmul(torch.autograd.Function):
    """Rows of each expert times its matrix, which is unpacked forward and again backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, packed: Tensor, state: Any, ends: Tensor) -> Tensor:
        """Compute the products.

        Args:
            ctx: of autograd.
            rows: [R, K], sorted by expert.
            packed: [E * N * K / 2, 1] uint8.
            state: bitsandbytes' scales.
            ends: [E] int32, where each expert's rows end.

        Returns:
            [R, N] in the dtype of `rows`.
        """
        ctx.save_for_backward(packed, ends)
        ctx.state = state
        matrices, ends = unpack_used(packed, state, ends, len(rows))
        return grouped_matmul(rows, matrices.to(rows.dtype).mT, ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the rows [R, K] from that of the products [R, N]."""
        packed, ends = ctx.saved_tensors
        matrices, ends = unpack_used(packed, ctx.state, ends, len(grad))
        grad_rows = grouped_matmul(grad.contiguous(), matrices.to(grad.dtype), ends)
        return grad_rows, None, None, None


def unpack_used(packed: Tensor, state: Any, ends: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The matrices of experts, at least of those that rows chose.

    In a training step every expert is likely to be used, and asking which are would wait for the
    device. While answers are generated there are fewer rows than experts.

    Args:
        packed: [E * N * K / 2, 1] uint8.
        state: bitsandbytes' scales of it.
        ends: [E] int32, where each expert's rows end.
        rows: number of them.

    Returns:
        [U, N, K] in the dtype of the scales' state, and [U] int32 of the ends of their rows.
    """
    from bitsandbytes import functional as bnb  # an extra: only a quantized model needs it

    experts = len(ends)
    if rows >= experts:
        return bnb.dequantize_4bit(packed, state), ends
    used = ends.diff(prepend=ends.new_zeros(1)).nonzero().flatten()
    scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    own = bnb.QuantState(
        absmax=scales.float().view(experts, -1)[used].flatten(),
        shape=torch.Size((len(used), *state.shape[1:])),
        code=state.code,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        dtype=state.dtype,
    )
    own_packed = packed.view(experts, -1)[used].view(-1, 1)
    return bnb.dequantize_4bit(own_packed, own), ends[used]


def pack_stack(experts: StackedExperts) -> None:
    """Make room for packed tensors in place of all tensors of experts, still empty.

    Args:
        experts: on the meta device, changed in place.
    """
    parameters = dict(experts.named_parameters(recurse=False))
    kind: Any = type(experts)
    experts.__class__ = pack_class(kind)
    assert isinstance(experts, FourBitExperts)
    experts.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    experts.quant_states = {}
    for name, parameter in parameters.items():
        packed = torch.empty(parameter.numel() // 2, 1, dtype=torch.uint8, device="meta")
        setattr(experts, name, nn.Parameter(packed, requires_grad=False))


@contextmanager
def shaped_stacks(model: nn.Module) -> Iterator[None]:
    """Within this context packed tensors of experts have the shapes that they stand for.

    peft makes adapters by them. Each is a single zero, expanded.

    Args:
        model: changed in place for the time.
    """
    places = [
        (module, name, getattr(module, name))
        for module in model.modules()
        if isinstance(module, FourBitExperts)
        for name in module.shapes
    ]
    for module, name, _ in places:
        zeros = torch.zeros(()).expand(module.shapes[name])
        setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    yield
    for module, name, packed in places:
        setattr(module, name, packed)
