"""The names of the original layout beside transformers', one table for both families.

The original is deepseek-ai/DeepSeek-VL (deepseek_vl/models/modeling_vlm.py: MultiModalityCausalLM and what it holds). A
rule is a pattern for the original name, its name in transformers' layout, and how the tensor changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Named = list[tuple[str, Tensor]]


class Rule(NamedTuple):
    """One line of the table; `target` takes the pattern's groups as {0}, {1}, ..."""

    pattern: str
    target: str
    change: Callable[[str, Tensor], Named]


def same(name: str, tensor: Tensor) -> Named:
    """The tensor as it is."""
    return [(name, tensor)]


def without_batch(name: str, tensor: Tensor) -> Named:
    """A position table [1, tokens, width] becomes an embedding [tokens, width]."""
    return [(name, tensor[0])]


def qkv(name: str, tensor: Tensor) -> Named:
    """One fused projection [3 x width, ...] becomes three, in the order query, key, value."""
    parts = zip("qkv", tensor.chunk(3), strict=True)
    return [(name.format(letter), part.contiguous()) for letter, part in parts]


def unused(name: str, tensor: Tensor) -> Named:
    """A tensor that the original never uses in its forward pass and transformers has no place for."""
    return []


SAM, SAM_HF = r"vision_model\.vision_tower_high\.vision_tower\.", "model.high_res_vision_model.vision_encoder."
# The SigLIP-only family calls its tower vision_tower, the hybrid one vision_tower_low.
SIGLIP, SIGLIP_HF = r"vision_model\.(?:vision_tower_low\.vision_tower|vision_tower)\.", "model.vision_model."

RULES = (
    Rule(SAM + r"pos_embed", SAM_HF + "pos_embed", same),
    Rule(SAM + r"patch_embed\.proj\.(\w+)", SAM_HF + "patch_embed.projection.{0}", same),
    Rule(SAM + r"blocks\.(\d+)\.norm([12])\.(\w+)", SAM_HF + "layers.{0}.layer_norm{1}.{2}", same),
    Rule(SAM + r"blocks\.(\d+)\.(attn\.rel_pos_[hw])", SAM_HF + "layers.{0}.{1}", same),
    Rule(SAM + r"blocks\.(\d+)\.(attn\.(?:qkv|proj)\.\w+)", SAM_HF + "layers.{0}.{1}", same),
    Rule(SAM + r"blocks\.(\d+)\.(mlp\.lin[12]\.\w+)", SAM_HF + "layers.{0}.{1}", same),
    Rule(SAM + r"neck\.0\.weight", SAM_HF + "neck.conv1.weight", same),
    Rule(SAM + r"neck\.1\.(\w+)", SAM_HF + "neck.layer_norm1.{0}", same),
    Rule(SAM + r"neck\.2\.weight", SAM_HF + "neck.conv2.weight", same),
    Rule(SAM + r"neck\.3\.(\w+)", SAM_HF + "neck.layer_norm2.{0}", same),
    Rule(SAM + r"neck_hd\.0\.weight", "model.high_res_vision_neck.conv1.weight", same),
    Rule(SAM + r"neck_hd\.1\.(\w+)", "model.high_res_vision_neck.layer_norm1.{0}", same),
    Rule(SAM + r"neck_hd\.2\.weight", "model.high_res_vision_neck.conv2.weight", same),
    Rule(SAM + r"neck_hd\.3\.(\w+)", "model.high_res_vision_neck.layer_norm2.{0}", same),
    Rule(SAM + r"downsamples\.0\.weight", "model.high_res_vision_proj.conv1.weight", same),
    Rule(SAM + r"downsamples\.1\.weight", "model.high_res_vision_proj.conv2.weight", same),
    Rule(SAM + r"hd_alpha_downsamples", "model.high_res_vision_alpha", same),
    Rule(r"vision_model\.(?:high|low)_layer_norm\.\w+", "", unused),
    Rule(SIGLIP + r"pos_embed", SIGLIP_HF + "embeddings.position_embedding.weight", without_batch),
    Rule(SIGLIP + r"patch_embed\.proj\.(\w+)", SIGLIP_HF + "embeddings.patch_embedding.{0}", same),
    Rule(SIGLIP + r"blocks\.(\d+)\.norm([12])\.(\w+)", SIGLIP_HF + "encoder.layers.{0}.layer_norm{1}.{2}", same),
    Rule(SIGLIP + r"blocks\.(\d+)\.attn\.qkv\.(\w+)", SIGLIP_HF + "encoder.layers.{0}.self_attn.{{}}_proj.{1}", qkv),
    Rule(SIGLIP + r"blocks\.(\d+)\.attn\.proj\.(\w+)", SIGLIP_HF + "encoder.layers.{0}.self_attn.out_proj.{1}", same),
    Rule(SIGLIP + r"blocks\.(\d+)\.(mlp\.fc[12]\.\w+)", SIGLIP_HF + "encoder.layers.{0}.{1}", same),
    Rule(SIGLIP + r"norm\.(\w+)", SIGLIP_HF + "post_layernorm.{0}", same),
    Rule(SIGLIP + r"attn_pool\..*", "", unused),
    Rule(r"aligner\.high_up_proj\.(\w+)", "model.aligner.high_res_vision_proj.{0}", same),
    Rule(r"aligner\.low_up_proj\.(\w+)", "model.aligner.vision_proj.{0}", same),
    Rule(r"aligner\.layers\.1\.(\w+)", "model.aligner.proj.{0}", same),
    Rule(r"aligner\.layers\.0\.(\w+)", "model.aligner.linear1.{0}", same),
    Rule(r"aligner\.layers\.2\.(\w+)", "model.aligner.linear2.{0}", same),
    Rule(r"language_model\.model\.(.*)", "model.language_model.{0}", same),
    Rule(r"language_model\.lm_head\.weight", "lm_head.weight", same),
)


def to_transformers(name: str, tensor: Tensor) -> Named:
    """An original tensor under its names in transformers' layout; nothing for one that has no place there.

    Raises:
        ValueError: no rule knows the name.
    """
    for pattern, target, change in RULES:
        if match := re.fullmatch(pattern, name):
            return change(target.format(*match.groups()), tensor)
    raise ValueError(f"tensor {name} of the original layout has no rule")
