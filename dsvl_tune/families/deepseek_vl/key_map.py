"""The names of the original layout beside transformers': one table for both directions and both families.

The original is deepseek-ai/DeepSeek-VL (deepseek_vl/models/modeling_vlm.py: MultiModalityCausalLM and what it holds). A
rule is one name in each layout, with fields in braces that stand for the same text in both, and how the tensor changes.
"""

from __future__ import annotations

import re
from functools import cache
from string import Formatter
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Change = Literal["same", "batch", "qkv"]
# What a field of a rule may stand for. {qkv} stands for the three projections that the original keeps in one tensor.
FIELDS = {
    "layer": r"\d+",
    "n": "[12]",
    "hw": "[hw]",
    "leaf": "weight|bias",
    "qkv": "[qkv]",
    "rest": ".+",
}


class Rule(NamedTuple):
    """One line of the table."""

    original: str
    transformers: str
    change: Change = "same"


class Pair(NamedTuple):
    """One tensor of the original layout beside its one or three in transformers'."""

    original: str
    transformers: tuple[str, ...]
    change: Change

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The original's tensor as transformers' (views of it).

        A position table [1, tokens, width] becomes an embedding [tokens, width]; one fused projection [3 x width, ...]
        becomes three, in the order query, key, value.
        """
        if self.change == "qkv":
            return tensor.chunk(3)
        return (tensor[0] if self.change == "batch" else tensor,)

    def join(self, tensors: list[Tensor]) -> Tensor:
        """The way back from `split`."""
        if self.change == "qkv":
            return torch.cat(tensors)
        return tensors[0][None] if self.change == "batch" else tensors[0]


SAM, SAM_HF = (
    "vision_model.vision_tower_high.vision_tower.",
    "model.high_res_vision_model.vision_encoder.",
)
SAM_RULES = (
    Rule(SAM + "pos_embed", SAM_HF + "pos_embed"),
    Rule(SAM + "patch_embed.proj.{leaf}", SAM_HF + "patch_embed.projection.{leaf}"),
    Rule(SAM + "blocks.{layer}.norm{n}.{leaf}", SAM_HF + "layers.{layer}.layer_norm{n}.{leaf}"),
    Rule(SAM + "blocks.{layer}.attn.rel_pos_{hw}", SAM_HF + "layers.{layer}.attn.rel_pos_{hw}"),
    Rule(SAM + "blocks.{layer}.attn.qkv.{leaf}", SAM_HF + "layers.{layer}.attn.qkv.{leaf}"),
    Rule(SAM + "blocks.{layer}.attn.proj.{leaf}", SAM_HF + "layers.{layer}.attn.proj.{leaf}"),
    Rule(SAM + "blocks.{layer}.mlp.lin{n}.{leaf}", SAM_HF + "layers.{layer}.mlp.lin{n}.{leaf}"),
    Rule(SAM + "neck.0.weight", SAM_HF + "neck.conv1.weight"),
    Rule(SAM + "neck.1.{leaf}", SAM_HF + "neck.layer_norm1.{leaf}"),
    Rule(SAM + "neck.2.weight", SAM_HF + "neck.conv2.weight"),
    Rule(SAM + "neck.3.{leaf}", SAM_HF + "neck.layer_norm2.{leaf}"),
    Rule(SAM + "neck_hd.0.weight", "model.high_res_vision_neck.conv1.weight"),
    Rule(SAM + "neck_hd.1.{leaf}", "model.high_res_vision_neck.layer_norm1.{leaf}"),
    Rule(SAM + "neck_hd.2.weight", "model.high_res_vision_neck.conv2.weight"),
    Rule(SAM + "neck_hd.3.{leaf}", "model.high_res_vision_neck.layer_norm2.{leaf}"),
    Rule(SAM + "downsamples.0.weight", "model.high_res_vision_proj.conv1.weight"),
    Rule(SAM + "downsamples.1.weight", "model.high_res_vision_proj.conv2.weight"),
    Rule(SAM + "hd_alpha_downsamples", "model.high_res_vision_alpha"),
)

# The SigLIP-only family calls its tower vision_tower, the hybrid one vision_tower_low.
SIGLIP = {
    "deepseek_vl_hybrid": "vision_model.vision_tower_low.vision_tower.",
    "deepseek_vl": "vision_model.vision_tower.",
}
SIGLIP_HF = "model.vision_model."
# transformers before its version 5 wrote one level more.
SIGLIP_HF_OLD = "model.vision_model.vision_model."
SIGLIP_RULES = (
    Rule("pos_embed", "embeddings.position_embedding.weight", "batch"),
    Rule("patch_embed.proj.{leaf}", "embeddings.patch_embedding.{leaf}"),
    Rule("blocks.{layer}.norm{n}.{leaf}", "encoder.layers.{layer}.layer_norm{n}.{leaf}"),
    Rule(
        "blocks.{layer}.attn.qkv.{leaf}",
        "encoder.layers.{layer}.self_attn.{qkv}_proj.{leaf}",
        "qkv",
    ),
    Rule("blocks.{layer}.attn.proj.{leaf}", "encoder.layers.{layer}.self_attn.out_proj.{leaf}"),
    Rule("blocks.{layer}.mlp.fc{n}.{leaf}", "encoder.layers.{layer}.mlp.fc{n}.{leaf}"),
    Rule("norm.{leaf}", "post_layernorm.{leaf}"),
)

ALIGNER_RULES = {
    "deepseek_vl_hybrid": (
        Rule("aligner.high_up_proj.{leaf}", "model.aligner.high_res_vision_proj.{leaf}"),
        Rule("aligner.low_up_proj.{leaf}", "model.aligner.vision_proj.{leaf}"),
        Rule("aligner.layers.1.{leaf}", "model.aligner.proj.{leaf}"),
    ),
    "deepseek_vl": (
        Rule("aligner.layers.0.{leaf}", "model.aligner.linear1.{leaf}"),
        Rule("aligner.layers.2.{leaf}", "model.aligner.linear2.{leaf}"),
    ),
}

LANGUAGE_RULES = (
    Rule("language_model.model.{rest}", "model.language_model.{rest}"),
    Rule("language_model.lm_head.weight", "lm_head.weight"),
)

RULES = {
    family: (
        *(SAM_RULES if family == "deepseek_vl_hybrid" else ()),
        *(
            Rule(SIGLIP[family] + original, SIGLIP_HF + name, change)
            for original, name, change in SIGLIP_RULES
        ),
        *ALIGNER_RULES[family],
        *LANGUAGE_RULES,
    )
    for family in SIGLIP
}


@cache
def pattern(template: str) -> re.Pattern[str]:
    """A rule's name as a pattern with a group for each field."""
    parts = [(re.escape(text), field) for text, field, *_ in Formatter().parse(template)]
    return re.compile(
        "".join(text + (f"(?P<{field}>{FIELDS[field]})" if field else "") for text, field in parts)
    )


def pair_of_original(name: str, family: str) -> Pair | None:
    """The pair that an original name belongs to; None if no rule of the family knows it."""
    for original, transformers, change in RULES[family]:
        if match := pattern(original).fullmatch(name):
            letters = "qkv" if change == "qkv" else " "
            return Pair(
                name,
                tuple(transformers.format(**match.groupdict(), qkv=letter) for letter in letters),
                change,
            )
    return None


def pair_of_transformers(name: str, family: str) -> Pair | None:
    """The pair that a name in transformers' layout belongs to; None if no rule of the family knows it."""
    for original, transformers, _ in RULES[family]:
        if match := pattern(transformers).fullmatch(name):
            return pair_of_original(original.format(**match.groupdict()), family)
    return None


def unused_shapes(family: str, width: int, mlp: int, high_width: int) -> dict[str, tuple[int, ...]]:
    """Tensors of an original checkpoint that its forward pass never reads and transformers has no place for.

    SigLIP's attention pooling (bypassed by `ignore_head`), and the hybrid tower's two layer norms (never applied).

    Args:
        family: a model type. width: of SigLIP. mlp: width of its MLP. high_width: channels of the downsampled SAM
            features.
    """
    pool = {
        "latent": (1, 1, width),
        **{
            "q.weight": (width, width),
            "q.bias": (width,),
            "kv.weight": (2 * width, width),
            "kv.bias": (2 * width,),
        },
        **{
            "proj.weight": (width, width),
            "proj.bias": (width,),
            "norm.weight": (width,),
            "norm.bias": (width,),
        },
        **{"mlp.fc1.weight": (mlp, width), "mlp.fc1.bias": (mlp,), "mlp.fc2.weight": (width, mlp)},
        "mlp.fc2.bias": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"{SIGLIP[family]}attn_pool.{name}": shape for name, shape in pool.items()
    }
    if family == "deepseek_vl_hybrid":
        for branch, size in (("high", high_width), ("low", width)):
            shapes |= {
                f"vision_model.{branch}_layer_norm.{leaf}": (size,) for leaf in ("weight", "bias")
            }
    return shapes
