"""Float64 references: how far float32 results are from the truth, instead of from one another."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from dsvl_tune.models.float64 import Float64RMSNorm

EPSILON = torch.finfo(torch.float32).eps


def exact_copy(module: nn.Module) -> nn.Module:
    """A copy that computes in float64, its gradients too."""
    copied = copy.deepcopy(module).double()
    for part in copied.modules():
        if type(part) is LlamaRMSNorm:
            part.__class__ = Float64RMSNorm
    return copied


def exact(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's inputs, with pixels and weights in float64."""
    return {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}


def assert_as_near(
    truth: dict[str, Tensor], theirs: dict[str, Tensor], ours: dict[str, Tensor], factor: float = 4
) -> None:
    """Our float32 results are about as near to the float64 ones as those of another right way.

    How near that is depends on the order of sums, which differs between processors, libraries and
    thread counts. So it is measured here and now, in the norm of each tensor. Both ways may also
    differ by some roundings of the tensor itself, or, where large terms cancel (the gradient of a
    key's bias is zero), by some of the largest tensor.

    Args:
        truth: float64 results by name.
        theirs: of the right way, float32.
        ours: of the way that is tested, float32.
        factor: how many times farther ours may be.
    """
    assert truth.keys() == theirs.keys() == ours.keys() and truth
    largest = max(float(tensor.detach().norm()) for tensor in truth.values())
    for name, wanted in truth.items():
        assert ours[name].dtype == theirs[name].dtype == torch.float32, name
        noise, error = ((found[name].double() - wanted).norm() for found in (theirs, ours))
        rounding = EPSILON * (4 * wanted.norm() + largest / 64)
        assert error <= factor * noise + rounding, (name, error, noise)


def assert_trained_alike(one: dict[str, Tensor], two: dict[str, Tensor], atol: float) -> None:
    """Two runs of AdamW that differ by the order of sums end with the same weights.

    AdamW divides a gradient by its own size: where it is all rounding, the step may go either way.
    Random gradients are that small in about one element in a million; one in a thousand passes.
    """
    assert one.keys() == two.keys() and one
    apart = {name: int(((one[name] - two[name]).abs() > atol).sum()) for name in one}
    elements = sum(tensor.numel() for tensor in one.values())
    assert sum(apart.values()) <= 1e-3 * elements, {name: n for name, n in apart.items() if n}
