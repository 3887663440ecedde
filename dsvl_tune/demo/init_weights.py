"""Starting weights from which small towers learn within minutes.

transformers' initialisation leaves them on a plateau: SAM's default initializer_range is 1e-10, position embeddings
are zero or faint beside a coloured patch, and a random patch filter shows mostly noise. Here every visual token
starts as what its patch looks like (its lowest spatial frequencies) and where it lies, and the layers start close to
the identity.

The language model's plateau is look-up ("red40, blue70. Read red."): it needs a key that knows the token before it, and
a query that fits that key, and neither is of use before the other is there. So its heads start by attending to what is
like the token itself and copy what they see, and two of the first layer look one and two tokens back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import DeepseekVLHybridForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel

FREQUENCIES = 4
"""Per direction: 4 x 4 patterns of 3 channels describe a patch."""
POSITION = 0.7
"""Amplitude of the position embeddings; a coloured patch has about 1."""
RESIDUAL, TEXT_RESIDUAL, PROJECTION = 0.3, 0.35, 0.5
"""Factors on what the layers of the towers, of the language model (1 / sqrt(2 x 4 layers)) and the aligner add."""
ALIKE, COPY, NOISE = 0.8, 0.3, 0.02
"""Scale of the shared query and key matrix, of the output matrix as a share of the value matrix, of what is added."""
CONSTANT, SHARPNESS = 4.0, 4.0
"""Size of a token's constant component in standard deviations of the others; how far, in logits, a head that looks back
prefers its place to the one beside it."""
VISUAL_SCALE = 0.16
"""Standard deviation of an untrained visual token's components, measured on generated pictures."""


@torch.no_grad()
def prepare_weights(
    model: DeepseekVLHybridForConditionalGeneration, generator: torch.Generator
) -> None:
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
        if name.endswith("down_proj.weight"):
            weight.mul_(TEXT_RESIDUAL)
    prepare_attention(model.model.language_model, generator)
    model.model.aligner.proj.weight.mul_(PROJECTION)
    model.model.aligner.proj.bias[0] = (
        CONSTANT * VISUAL_SCALE
    )  # visual tokens have the constant component too
    # Zero in transformers' initialisation: the second SAM branch would add nothing at first.
    model.model.high_res_vision_alpha.fill_(0.1)


def prepare_attention(text: LlamaModel, generator: torch.Generator) -> None:
    """Heads that attend to what is alike and copy it, and two that look one and two tokens back.

    The first is mimetic initialisation (arXiv 2305.09828): the product of query and key matrices is near a multiple of
    the identity, and so is that of value and output matrices.
    """
    width = text.config.hidden_size
    for layer in text.layers:
        attention = layer.self_attn
        alike, copied = (
            torch.linalg.qr(torch.randn(width, width, generator=generator)).Q for _ in range(2)
        )
        starts = (alike * ALIKE, alike * ALIKE, copied, COPY * copied.T)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        for projection, start in zip(projections, starts, strict=True):
            projection.weight.copy_(start + NOISE * torch.randn(width, width, generator=generator))
    text.embed_tokens.weight[:, 0] = CONSTANT * text.embed_tokens.weight.std()
    first = text.layers[0].self_attn
    first.o_proj.weight.mul_(2)
    for head, back in enumerate((1, 2)):
        look_back(first, head, back, text.config.rope_parameters["rope_theta"])


def look_back(attention: LlamaAttention, head: int, back: int, theta: float) -> None:
    """Let a head attend to the token `back` places before, whatever it is.

    Query and key are read from the tokens' constant component, so only the rotary embedding (arXiv 2104.09864) tells
    places apart: the key is the same everywhere, the query is turned ahead by `back` places.
    """
    pairs = attention.head_dim // 2
    frequencies = theta ** (-torch.arange(pairs) / pairs)
    # Beside its place the sum over pairs of cos(frequency x distance) is lower by this much.
    drop = (1 - frequencies.cos()).sum()
    scale = math.sqrt(SHARPNESS * math.sqrt(2 * pairs) / drop) / CONSTANT
    angles = back * frequencies
    rows = slice(head * 2 * pairs, (head + 1) * 2 * pairs)
    for projection, turned in (
        (attention.q_proj, torch.cat([angles.cos(), -angles.sin()])),
        (attention.k_proj, torch.cat([torch.ones(pairs), torch.zeros(pairs)])),
    ):
        projection.weight[rows] *= 0.1
        projection.weight[rows, 0] = scale * turned


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
