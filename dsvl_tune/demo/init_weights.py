"""Initial weights from which small towers learn within minutes.

transformers' initialization leaves them on a plateau: SAM's default initializer_range is 1e-10,
position embeddings are zero or faint compared with a colored patch, and a random patch filter shows
mostly noise. Here every visual token starts as the lowest spatial frequencies of its patch plus its
position, and the layers start close to the identity.

The language model's plateau is look-up ("red40, blue70. Read red."): it needs a key that knows the
token before it and a query that matches this key, and neither helps before the other exists. So its
heads start by attending to similar tokens and copying them, and two heads of the first layer look
one and two tokens back.
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
"""Amplitude of the position embeddings; a colored patch has about 1."""
RESIDUAL = 0.3
"""Factor on the output of the towers' layers."""
TEXT_RESIDUAL = 0.35
"""Factor on the output of the language model's MLPs: 1 / sqrt(2 x 4 layers)."""
PROJECTION = 0.5
"""Factor on the aligner's output."""
ALIKE = 0.8
"""Scale of the matrix that query and key share."""
COPY = 0.3
"""Scale of the output matrix relative to the value matrix."""
NOISE = 0.02
"""Standard deviation of the noise added to both."""
CONSTANT = 4.0
"""Size of a token's constant component in standard deviations of its other components."""
SHARPNESS = 4.0
"""Preference, in logits, of a head that looks back for its position over the adjacent one."""
VISUAL_SCALE = 0.16
"""Standard deviation of an untrained visual token's components, measured on generated pictures."""


@torch.no_grad()
def prepare_weights(
    model: DeepseekVLHybridForConditionalGeneration, generator: torch.Generator
) -> None:
    """Replace the initial weights that slow learning down, in place.

    Args:
        model: freshly initialized.
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
    # Visual tokens have the constant component, too.
    model.model.aligner.proj.bias[0] = CONSTANT * VISUAL_SCALE
    # Zero in transformers' initialization: SAM's second output would add nothing at first.
    model.model.high_res_vision_alpha.fill_(0.1)


def prepare_attention(text: LlamaModel, generator: torch.Generator) -> None:
    """Make heads attend to similar tokens and copy them, and two look one and two tokens back.

    The former is mimetic initialization (arXiv 2305.09828): the product of query and key matrices
    is close to a multiple of the identity, and so is that of value and output matrices.

    Args:
        text: the language model, changed in place.
        generator: of the random matrices.
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
    """Make a head attend to the token `back` positions earlier, whatever it is.

    Query and key are read from the tokens' constant component, so only the rotary embedding (arXiv
    2104.09864) distinguishes positions: the key is the same everywhere, the query is rotated ahead.

    Args:
        attention: changed in place.
        head: number of the head.
        back: positions to look back.
        theta: base of the rotary embedding.
    """
    pairs = attention.head_dim // 2
    frequencies = theta ** (-torch.arange(pairs) / pairs)
    # At the adjacent position the sum over pairs of cos(frequency x distance) is lower by this.
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
    """Sine and cosine position embeddings of a square grid (arXiv 1706.03762, section 3.5).

    Half of the components encode the row, half the column. Periods range from half the grid to five
    times the grid.

    Args:
        side: of the grid.
        width: components of an embedding, a multiple of 4.

    Returns:
        [side, side, width] float32.
    """
    quarter = width // 4
    speed = 4 * math.pi * 10.0 ** (-torch.arange(quarter) / quarter)
    angle = ((torch.arange(side) + 0.5) / side)[:, None] * speed
    wave = POSITION * torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2)


def patch_patterns(patches: nn.Conv2d, generator: torch.Generator) -> Tensor:
    """Patch filters: a random rotation of the lowest patterns of the cosine transform (DCT-II).

    Args:
        patches: the convolution that embeds patches of P x P px.
        generator: of the rotation.

    Returns:
        [D, 3, P, P] float32.
    """
    width, channels, side, _ = patches.weight.shape
    place = (torch.arange(side) + 0.5) / side
    norms = [math.sqrt((2 if k else 1) / side) for k in range(FREQUENCIES)]
    waves = torch.stack([norm * torch.cos(math.pi * k * place) for k, norm in enumerate(norms)])
    patterns = torch.einsum("up,vq->uvpq", waves, waves).flatten(0, 1)
    amount = channels * len(patterns)
    rotation = torch.linalg.qr(torch.randn(width, amount, generator=generator)).Q * math.sqrt(width)
    # A patch of one saturated color has a first coefficient of about 2 x side per channel, so that
    # its tokens come out at about 1.
    return torch.einsum("dcn,npq->dcpq", rotation.view(width, channels, -1), patterns) / (2 * side)
