"""SAM's attention without the written-out bias is transformers', forward and every gradient."""

from __future__ import annotations

import copy

import pytest
import torch
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


def assert_equal(theirs: dict[str, Tensor], ours: dict[str, Tensor], bound: float = 1e-5) -> None:
    """Each tensor within `bound` of the other's largest number."""
    assert theirs.keys() == ours.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() <= bound * expected.abs().max(), name


@pytest.mark.parametrize(
    ("geometry", "onednn"), [*((geometry, True) for geometry in GEOMETRIES), ("small", False)]
)
def test_it_is_transformers(geometry: str, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_linear, "ONEDNN", onednn)
    heads, side, window, batch, height, width = GEOMETRIES[geometry]
    torch.manual_seed(1)
    theirs, ours = pair(heads, side, window)
    hidden, weights = torch.randn(2, batch, height, width, 64 * heads).unbind(0)
    assert_equal(results(theirs, hidden, weights), results(ours, hidden, weights))
    with torch.inference_mode():
        assert_equal({"output": theirs(hidden)[0]}, {"output": ours(hidden)[0]})


def operands(dtype: torch.dtype, height: int = 3, width: int = 2) -> list[Tensor]:
    """query, key, value, rows and columns of two heads."""
    torch.manual_seed(2)
    sizes = (4, 4, 4, height, width)
    return [torch.randn(2, height * width, size, dtype=dtype, requires_grad=True) for size in sizes]


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
    tensors = operands(torch.float32, 6, 7)
    blockwise = BlockedAttention.apply(*tensors, 0.3)
    widened = widened_attention(*(tensor[None] for tensor in tensors), 0.3)[0]
    torch.testing.assert_close(widened, blockwise, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(blockwise)
    for ours, theirs in zip(
        torch.autograd.grad((widened * weights).sum(), tensors),
        torch.autograd.grad((blockwise * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


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
