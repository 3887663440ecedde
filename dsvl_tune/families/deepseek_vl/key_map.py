"""Tensor names of the original DeepSeek-VL and of transformers: one table for both directions.

The original is deepseek-ai/DeepSeek-VL (deepseek_vl/models/modeling_vlm.py: MultiModalityCausalLM
and its modules).
"""

from __future__ import annotations

from transformers import PretrainedConfig

from dsvl_tune.core.family import Shapes
from dsvl_tune.families.deepseek_vl.sizes import downsampled_widths, sam_config_of
from dsvl_tune.families.key_rules import Rule

SAM = "vision_model.vision_tower_high.vision_tower."
SAM_HF = "model.high_res_vision_model.vision_encoder."
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

# The SigLIP-only models call their tower vision_tower, the hybrid ones vision_tower_low.
SIGLIP = {
    "deepseek_vl_hybrid": "vision_model.vision_tower_low.vision_tower.",
    "deepseek_vl": "vision_model.vision_tower.",
}
SIGLIP_HF = "model.vision_model."
SIGLIP_IN_FILES = "model.vision_model.vision_model."
"""Releases of transformers before 5 have one level more, and without it draw the tower at random,
with no more than a warning; later ones take it off."""
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


def siglip_rules(original: str, transformers: str) -> tuple[Rule, ...]:
    """The rules of a SigLIP tower.

    Args:
        original: prefix of its tensors in the original layout.
        transformers: prefix of its tensors in transformers' layout.
    """
    return tuple(
        Rule(original + rule.original, transformers + rule.transformers, rule.change)
        for rule in SIGLIP_RULES
    )


def rules_of(model_type: str) -> tuple[Rule, ...]:
    """Every rule of the SigLIP-only ("deepseek_vl") or the hybrid models ("deepseek_vl_hybrid")."""
    siglip = siglip_rules(SIGLIP[model_type], SIGLIP_HF)
    sam = SAM_RULES if model_type == "deepseek_vl_hybrid" else ()
    return (*sam, *siglip, *ALIGNER_RULES[model_type], *LANGUAGE_RULES)


RULES = {model_type: rules_of(model_type) for model_type in SIGLIP}


def unused_tensors(config: PretrainedConfig) -> Shapes:
    """Tensors of an original checkpoint that transformers has no place for.

    The original's forward pass never reads them: SigLIP's attention pooling (bypassed by
    `ignore_head`), and the two layer norms of the hybrid tower (never applied).
    """
    width = config.vision_config.hidden_size
    mlp = config.vision_config.intermediate_size
    shapes = attention_pool(SIGLIP[config.model_type], width, mlp)
    sam = sam_config_of(config)
    if sam is not None:
        for tower, size in (("high", downsampled_widths(sam)[-1]), ("low", width)):
            for leaf in ("weight", "bias"):
                shapes[f"vision_model.{tower}_layer_norm.{leaf}"] = (size,)
    return shapes


def attention_pool(siglip: str, width: int, mlp: int) -> Shapes:
    """Tensors of SigLIP's attention pooling, which the original's code has and never reads.

    Args:
        siglip: prefix of the tower's tensors.
        width: of the tower.
        mlp: inner width of its MLPs.
    """
    pool: Shapes = {
        "latent": (1, 1, width),
        "q.weight": (width, width),
        "q.bias": (width,),
        "kv.weight": (2 * width, width),
        "kv.bias": (2 * width,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "mlp.fc1.weight": (mlp, width),
        "mlp.fc1.bias": (mlp,),
        "mlp.fc2.weight": (width, mlp),
        "mlp.fc2.bias": (width,),
    }
    return {f"{siglip}attn_pool.{name}": shape for name, shape in pool.items()}
