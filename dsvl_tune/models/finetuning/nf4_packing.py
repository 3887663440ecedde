"""A weight in 4 bits: bitsandbytes' numbers, bit for bit, in a sixth of its time on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsvl_tune.models.finetuning.quantization import BLOCK, nf4_config

SMALLEST = 1e-38
"""Of the scale of a block, so that zeros are divided by more than zero."""

BLOCKS_AT_ONCE = 2048
"""Blocks that the processor's cache holds with all that is computed from them."""


def pack(weight: Tensor) -> Any:
    """A weight in 4 bits.

    Args:
        weight: [N, K] or [E, N, K], K a multiple of 64; the whole of it: the mean of all scales is
            subtracted before the scales are quantized themselves. On the CPU, so that the bits do
            not depend on the device that the model is trained on.

    Returns:
        bitsandbytes' Params4bit: [weights / 2, 1] uint8 of two each, with its scales as
        `quant_state`.
    """
    from bitsandbytes import functional as bnb  # an extra: only a quantized model needs it
    from bitsandbytes.nn import Params4bit

    settings = nf4_config(weight.dtype)
    code = bnb.get_4bit_type(settings.bnb_4bit_quant_type, device="cpu")
    packed, scales = nearest_codes(weight, code)
    offset = scales.mean()
    scales, state = bnb.quantize_blockwise(scales - offset, blocksize=256)
    return Params4bit(
        packed,
        quant_state=bnb.QuantState(
            absmax=scales,
            shape=weight.shape,
            code=code,
            blocksize=BLOCK,
            quant_type=settings.bnb_4bit_quant_type,
            dtype=weight.dtype,
            offset=offset,
            state2=state,
        ),
        compress_statistics=settings.bnb_4bit_use_double_quant,
        quant_type=settings.bnb_4bit_quant_type,
        quant_storage=settings.bnb_4bit_quant_storage,
        bnb_quantized=True,
    )


def nearest_codes(weight: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest code to each value, divided by the largest of its block.

    bitsandbytes 0.50 searches the codes for one value after the other (`torch.bucketize`). The
    number of bounds below a value is the same, and comparing is done for many values at once.

    Args:
        weight: any shape, a multiple of 64 values of a 16 or 32 bit floating dtype.
        code: [16] float32, ascending.

    Returns:
        [values / 2, 1] uint8, the first of two values in the high bits; and the scales
        [values / 64] float32.
    """
    blocks = weight.reshape(-1, BLOCK)
    packed = torch.empty(len(blocks), BLOCK // 2, dtype=torch.uint8)
    scales = torch.empty(len(blocks))
    bounds = ((code[:-1] + code[1:]) / 2).tolist()
    parts = (tensor.split(BLOCKS_AT_ONCE) for tensor in (blocks, packed, scales))
    for own, own_packed, own_scales in zip(*parts, strict=True):
        values = own.float()
        own_scales.copy_(values.abs().amax(1))
        values = values * (1.0 / own_scales.clamp(min=SMALLEST)).view(-1, 1)
        values.clamp_(-1, 1)
        number, above = torch.zeros_like(values), torch.empty_like(values)
        for bound in bounds:
            number += torch.gt(values, bound, out=above)  # in their dtype, which is vectorized
        own_packed.copy_(number[:, ::2] * 16 + number[:, 1::2])
    return packed.view(-1, 1), scales
