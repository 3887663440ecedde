"""Tensor names of the original Janus and of transformers: one table for both directions.

The original is deepseek-ai/Janus (janus/models/modeling_vlm.py: MultiModalityCausalLM, and
janus/models/vq_model.py).
"""

from __future__ import annotations

from transformers import JanusConfig

from dsvl_tune.core.family import Shapes
from dsvl_tune.families.deepseek_vl.key_map import LANGUAGE_RULES, attention_pool
from dsvl_tune.families.key_rules import Rule

SIGLIP = "vision_model.vision_tower."
SIGLIP_HF = "model.vision_model."
LAYER_HF = SIGLIP_HF + "encoder.layers.{layer}."
UNDERSTANDING_RULES = (
    Rule(SIGLIP + "pos_embed", SIGLIP_HF + "embeddings.position_embedding.weight", "batch"),
    Rule(SIGLIP + "patch_embed.proj.{leaf}", SIGLIP_HF + "embeddings.patch_embedding.{leaf}"),
    Rule(SIGLIP + "blocks.{layer}.norm{n}.{leaf}", LAYER_HF + "layer_norm{n}.{leaf}"),
    Rule(
        SIGLIP + "blocks.{layer}.attn.qkv.{leaf}", LAYER_HF + "self_attn.{qkv}_proj.{leaf}", "qkv"
    ),
    Rule(
        SIGLIP + "blocks.{layer}.attn.proj.{leaf}", LAYER_HF + "self_attn.projection_layer.{leaf}"
    ),
    Rule(SIGLIP + "blocks.{layer}.mlp.fc{n}.{leaf}", LAYER_HF + "mlp.fc{n}.{leaf}"),
    Rule(SIGLIP + "norm.{leaf}", SIGLIP_HF + "post_layernorm.{leaf}"),
    Rule("aligner.layers.0.{leaf}", "model.aligner.fc1.{leaf}"),
    Rule("aligner.layers.2.{leaf}", "model.aligner.hidden_layers.0.{leaf}"),
)

VQ = "gen_vision_model."
VQ_HF = "model.vqmodel."
LEVELS_HF = {"encoder": "down", "decoder": "up"}
MIDDLE_HF = ("block_1", "attn_1", "block_2")


def autoencoder_rules(half: str) -> list[Rule]:
    """The rules of a half of the VQ autoencoder: "encoder" or "decoder"."""
    original, name = f"{VQ}{half}.", f"{VQ_HF}{half}."
    blocks, levels = original + "conv_blocks.{layer}.", f"{name}{LEVELS_HF[half]}." + "{layer}."
    return [
        *(
            Rule(f"{original}{layer}.{{leaf}}", f"{name}{layer}.{{leaf}}")
            for layer in ("conv_in", "conv_out", "norm_out")
        ),
        *(
            Rule(f"{original}mid.{number}.{{rest}}", f"{name}mid.{layer}.{{rest}}")
            for number, layer in enumerate(MIDDLE_HF)
        ),
        Rule(blocks + "res.{rest}", levels + "block.{rest}"),
        *(
            Rule(f"{blocks}{layer}.{{rest}}", f"{levels}{layer}.{{rest}}")
            for layer in ("attn", "downsample", "upsample")
        ),
    ]


GENERATION_RULES = (
    *autoencoder_rules("encoder"),
    *autoencoder_rules("decoder"),
    *(
        Rule(f"{VQ}{layer}.{{leaf}}", f"{VQ_HF}{layer}.{{leaf}}")
        for layer in ("quantize.embedding", "quant_conv", "post_quant_conv")
    ),
    Rule("gen_embed.weight", "model.generation_embeddings.weight"),
    Rule("gen_aligner.layers.0.{leaf}", "model.generation_aligner.fc1.{leaf}"),
    Rule("gen_aligner.layers.2.{leaf}", "model.generation_aligner.hidden_layers.0.{leaf}"),
    Rule("gen_head.output_mlp_projector.{leaf}", "model.generation_head.proj_out.{leaf}"),
    Rule("gen_head.vision_head.{leaf}", "model.generation_head.vision_head.{leaf}"),
)

RULES = (*UNDERSTANDING_RULES, *GENERATION_RULES, *LANGUAGE_RULES)

CODES_IN_USE = 65_536
"""Codes that the original's quantizer remembers while it trains (janus/models/vq_model.py)."""


def unused_tensors(config: JanusConfig) -> Shapes:
    """Tensors of an original checkpoint that transformers has no place for.

    Neither answering nor generating images reads them.
    """
    vision = config.vision_config
    width = vision.hidden_size
    pool = attention_pool(SIGLIP, width, int(width * vision.mlp_ratio))
    return {**pool, f"{VQ}quantize.codebook_used": (CODES_IN_USE,)}
