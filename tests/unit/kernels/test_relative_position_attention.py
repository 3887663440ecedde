"""SAM's attention without the written-out bias is transformers', forward and every gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from reference import assert_as_near, exact_copy
from torch import Tensor
from torch.autograd import gradcheck
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from dsvl_tune.kernels import onednn_linear
from dsvl_tune.kernels import relative_position_attention as sam_attention
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.kernels.relative_position_attention import (
    BlockedAttention,
    BlockedSamAttention,
    widened_attention,
)

# heads, tokens a side that the tables are for, window (0: global), then batch, height and width of
# the input
GEOMETRIES = {
    "global at full size": (1, 64, 0, 1, 64, 64),
    "window at full size": (2, 64, 14, 25, 14, 14),
    "small": (4, 8, 0, 3, 8, 8),
    "tables interpolated": (2, 8, 0, 2, 12, 5),
}


def pair(heads: int, side: int, window: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """transformers' attention with every tensor drawn, and a copy with the faster forward."""
    config = SamVisionConfig(
        hidden_size=64 * heads,
        num_attention_heads=heads,
        image_size=16 * side,
        patch_size=16,
        qkv_bias=True,
    )
    theirs = SamVisionSdpaAttention(config, window)
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.3 if parameter.shape[-1] == 64 else parameter.shape[-1] ** -0.5)
    ours = copy.deepcopy(theirs)
    install_kernels(ours)
    assert (
        type(ours) is BlockedSamAttention and ours.state_dict().keys() == theirs.state_dict().keys()
    )
    return theirs, ours


def results(attention: torch.nn.Module, hidden: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output and all gradients."""
    hidden = hidden.clone().requires_grad_()
    attention.zero_grad()
    output, _ = attention(hidden_states=hidden)
    (output * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in attention.named_parameters()}
    return {"output": output.detach(), "hidden": hidden.grad, **gradients}


@pytest.mark.parametrize(
    ("geometry", "onednn"), [*((geometry, True) for geometry in GEOMETRIES), ("small", False)]
)
def test_it_is_transformers(geometry: str, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_linear, "ONEDNN", onednn)
    heads, side, window, batch, height, width = GEOMETRIES[geometry]
    torch.manual_seed(1)
    theirs, ours = pair(heads, side, window)
    hidden, weights = torch.randn(2, batch, height, width, 64 * heads).unbind(0)
    truth = results(exact_copy(theirs), hidden.double(), weights.double())
    assert_as_near(truth, results(theirs, hidden, weights), results(ours, hidden, weights))
    with torch.inference_mode():
        outputs = ({"output": attention(hidden)[0]} for attention in (theirs, ours))
        assert_as_near({"output": truth["output"]}, *outputs)


def operands(
    dtype: torch.dtype, height: int = 3, width: int = 2, drawn: torch.dtype = torch.float64
) -> list[Tensor]:
    """query, key, value, rows and columns of two heads; the same values in every dtype."""
    torch.manual_seed(2)
    sizes = (4, 4, 4, height, width)
    tensors = [torch.randn(2, height * width, size, dtype=drawn).to(dtype) for size in sizes]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("block", [2**19, 20])
def test_blocks_have_the_gradients_that_differences_give(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All heads in one block; some queries of one head in each."""
    monkeypatch.setattr(sam_attention, "BLOCK", block)
    assert gradcheck(
        lambda *tensors: BlockedAttention.apply(*tensors, 0.5), operands(torch.float64)
    )


def test_widened_operands_are_the_blocks() -> None:
    def found(way: Callable[..., Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        tensors = operands(dtype, 6, 7, torch.float32)
        output = way(*tensors)
        weights = torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)
        gradients = torch.autograd.grad((output * weights).sum(), tensors)
        return {"output": output, **{str(i): gradient for i, gradient in enumerate(gradients)}}

    def blocks(*tensors: Tensor) -> Tensor:
        return BlockedAttention.apply(*tensors, 0.3)

    def widened(*tensors: Tensor) -> Tensor:
        return widened_attention(*(tensor[None] for tensor in tensors), 0.3)[0]

    truth = found(blocks, torch.float64)
    assert_as_near(truth, found(blocks, torch.float32), found(widened, torch.float32))


def test_in_16_bit_it_is_no_further_from_the_truth_than_transformers() -> None:
    torch.manual_seed(3)
    theirs, ours = pair(2, 16, 0)
    hidden, weights = torch.randn(2, 2, 16, 16, 128).unbind(0)
    truth = results(theirs, hidden, weights)
    low = {
        name: results(attention.bfloat16(), hidden.bfloat16(), weights.bfloat16())
        for name, attention in (("theirs", theirs), ("ours", ours))
    }
    for name, expected in truth.items():
        away = {side: (low[side][name] - expected).norm() / expected.norm() for side in low}
        assert away["ours"] <= 1.2 * away["theirs"] + 1e-3, (name, away)
