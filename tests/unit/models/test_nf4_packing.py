"""Weights are packed into the bits that bitsandbytes packs them into."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes import functional as bnb
from bitsandbytes.nn import Params4bit
from torch import Tensor

from dsvl_tune.models.finetuning.nf4_packing import BLOCKS_AT_ONCE, pack


def weights(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(3, BLOCKS_AT_ONCE // 2 + 1, 64, generator=generator) * 0.02
    if kind == "ties":
        code = bnb.get_4bit_type("nf4", device="cpu")
        values[:, :, :15] = (code[:-1] + code[1:]) / 2
        values[:, :, 15] = 1
    if kind == "zeros":
        values[1] = 0
        values[2] *= 1e-37
    return values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
def test_bits_are_those_of_bitsandbytes(kind: str, dtype: torch.dtype) -> None:
    weight = weights(kind).to(dtype)
    before = weight.clone()
    ours = pack(weight)
    theirs = Params4bit(weight.clone(), quant_type="nf4").to("cpu")
    assert torch.equal(weight, before)
    assert type(ours) is Params4bit
    assert torch.equal(ours.data, theirs.data)
    own, other = (one.quant_state.as_dict() for one in (ours, theirs))
    assert own.keys() == other.keys()
    for name, value in own.items():
        same = (
            torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        )
        assert same, name
    for name, value in vars(theirs).items():
        if name not in ("quant_state", "data"):
            assert getattr(ours, name) == value, name
