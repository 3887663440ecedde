"""Starting weights from which small towers learn within minutes.

transformers' initialisation leaves them on a plateau: SAM's default initializer_range is 1e-10, position embeddings
are zero or faint beside a coloured patch, and a random patch filter shows mostly noise. Here every visual token
starts as what its patch looks like (its lowest spatial frequencies) and where it lies, and the layers start close to
the identity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import DeepseekVLHybridForConditionalGeneration

FREQUENCIES = 4
"""Per direction: 4 x 4 patterns of 3 channels describe a patch."""
POSITION = 0.7
"""Amplitude of the position embeddings; a coloured patch has about 1."""
RESIDUAL, TEXT_RESIDUAL, PROJECTION = 0.3, 0.35, 0.5
"""Factors on what the layers of the towers, of the language model (1 / sqrt(2 x 4 layers)) and the aligner add."""


@torch.no_grad()
def prepare_weights(model: DeepseekVLHybridForConditionalGeneration, generator: torch.Generator) -> None:
    """Replace the initial weights that would hold learning up, in place.

    Args:
        model: freshly initialised.
        generator: of the random projections of the patch patterns.
    """
    siglip = model.model.vision_model.embeddings
    sam = model.model.high_res_vision_model.vision_encoder
    for patches in (siglip.patch_embedding, sam.patch_embed.projection):
        patches.weight.copy_(patch_patterns(patches, generator))
    places, width = siglip.position_embedding.weight.shape
    siglip.position_embedding.weight.copy_(grid_waves(math.isqrt(places), width).flatten(0, 1))
    sam.pos_embed.copy_(grid_waves(sam.pos_embed.shape[1], sam.pos_embed.shape[3])[None])
    for name, weight in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight", "attn.proj.weight", "lin2.weight")):
            weight.mul_(RESIDUAL)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(TEXT_RESIDUAL)
    model.model.aligner.proj.weight.mul_(PROJECTION)
    # Zero in transformers' initialisation: the second SAM branch would add nothing at first.
    model.model.high_res_vision_alpha.fill_(0.1)


def grid_waves(side: int, width: int) -> Tensor:
    """Sine and cosine position embeddings of a square grid, [side, side, width]: half for the row, half for the column.

    As in the fixed embeddings of "Attention Is All You Need" (section 3.5), with periods from half the grid
    to five times the grid.
    """
    quarter = width // 4
    speed = 4 * math.pi * 10.0 ** (-torch.arange(quarter) / quarter)
    angle = ((torch.arange(side) + 0.5) / side)[:, None] * speed
    wave = POSITION * torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2)


def patch_patterns(patches: nn.Conv2d, generator: torch.Generator) -> Tensor:
    """Patch filters [D, 3, P, P]: a random rotation of the lowest patterns of the cosine transform (DCT-II)."""
    width, channels, side, _ = patches.weight.shape
    place = (torch.arange(side) + 0.5) / side
    norms = [math.sqrt((2 if k else 1) / side) for k in range(FREQUENCIES)]
    waves = torch.stack([norm * torch.cos(math.pi * k * place) for k, norm in enumerate(norms)])
    patterns = torch.einsum("up,vq->uvpq", waves, waves).flatten(0, 1)
    amount = channels * len(patterns)
    rotation = torch.linalg.qr(torch.randn(width, amount, generator=generator)).Q * math.sqrt(width)
    # A patch of one saturated colour has a first coefficient of about 2 x side per channel: its tokens get about 1.
    return torch.einsum("dcn,npq->dcpq", rotation.view(width, channels, -1), patterns) / (2 * side)
