"""Tensor names of the original DeepSeek-VL2 and of this package's model: one table for both ways.

The original is deepseek-ai/DeepSeek-VL2 (deepseek_vl2/models/modeling_deepseek_vl_v2.py:
DeepseekVLV2ForCausalLM and its modules). It has every expert's three projections as tensors of
their own; here the experts of a layer are two tensors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

from dsvl_tune.core.family import Shapes, TensorGroup
from dsvl_tune.families.deepseek_vl.key_map import attention_pool, siglip_rules
from dsvl_tune.families.key_rules import Rule, group_of_transformers

SIGLIP = "vision."
SIGLIP_HF = "model.vision_tower."
LAYERS = "language.model.layers."
LAYERS_HF = "model.language_model.layers."

RULES = (
    *siglip_rules(SIGLIP, SIGLIP_HF),
    Rule("projector.layers.0.{leaf}", "model.projector.linear1.{leaf}"),
    Rule("projector.layers.2.{leaf}", "model.projector.linear2.{leaf}"),
    Rule("image_newline", "model.image_newline"),
    Rule("view_seperator", "model.view_separator"),  # spelt so in the original
    Rule(LAYERS + "{rest}", LAYERS_HF + "{rest}"),
    Rule("language.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
    Rule("language.model.norm.weight", "model.language_model.norm.weight"),
    Rule("language.lm_head.weight", "lm_head.weight"),
)

EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Tensor of all experts here -> the tensors of each expert in the original, in this order."""

EXPERTS_HF = re.compile(re.escape(LAYERS_HF) + r"(\d+)\.mlp\.experts\.(gate_up_proj|down_proj)")


class ExpertsGroup(NamedTuple):
    """One tensor of all experts of a layer; a `core.family.TensorGroup`.

    Attributes:
        original: names there, expert by expert.
        transformers: its one name here.
    """

    original: tuple[str, ...]
    transformers: tuple[str, ...]

    @property
    def pieces(self) -> int:
        """Tensors of an expert in the original that are rows of its tensor here."""
        return len(EXPERTS[self.transformers[0].rpartition(".")[2]])

    def to_transformers(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """[E, pieces * N, K] of E * pieces tensors [N, K]."""
        return (torch.cat(list(tensors)).unflatten(0, (len(tensors) // self.pieces, -1)),)

    def to_original(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """E * pieces tensors [N, K], each with memory of its own, of [E, pieces * N, K]."""
        return [tensor.clone() for tensor in tensors[0].flatten(0, 1).chunk(len(self.original))]


def tensor_group(name: str, config: PretrainedConfig) -> TensorGroup | None:
    """The group of a tensor's name here; None if there is no such tensor."""
    match = EXPERTS_HF.fullmatch(name)
    if match is None:
        return group_of_transformers(name, RULES)
    prefix = f"{LAYERS}{match[1]}.mlp.experts."
    original = tuple(
        f"{prefix}{expert}.{projection}.weight"
        for expert in range(config.text_config.n_routed_experts)
        for projection in EXPERTS[match[2]]
    )
    return ExpertsGroup(original, (name,))


def unused_tensors(config: PretrainedConfig) -> Shapes:
    """SigLIP's attention pooling, which the original builds and `ignore_head` bypasses."""
    vision = config.vision_config
    return attention_pool(SIGLIP, vision.hidden_size, vision.intermediate_size)
