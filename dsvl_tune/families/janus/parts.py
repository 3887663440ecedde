"""The named parts of a Janus model, and the plans that have names."""

from __future__ import annotations

from dsvl_tune.core.family import ModelPart, PartPlan, Plan
from dsvl_tune.families.deepseek_vl.parts import LANGUAGE_PARTS

GENERATION = ("vqmodel", "generation_embeddings", "generation_aligner", "generation_head")
"""Modules of transformers' JanusModel that only image generation uses."""

# LoRA targets are anchored at their part: "all-linear" of peft would also adapt the aligner and
# head of image generation, which get no gradient.
PARTS: dict[str, ModelPart] = {
    "siglip": ModelPart(
        prefixes=("model.vision_model.",),
        lora_targets=(
            r"model\.vision_model\.encoder\.layers\.\d+"
            r"\.(self_attn\.([qkv]_proj|projection_layer)|mlp\.fc[12])"
        ),
        checkpointed_module="vision_model",
    ),
    "aligner": ModelPart(
        prefixes=("model.aligner.",),
        lora_targets=r"model\.aligner\.(fc1|hidden_layers\.\d+)",
    ),
    **LANGUAGE_PARTS,
    "gen_vision": ModelPart(prefixes=("model.vqmodel.",), carried=True),
    "gen_embed": ModelPart(prefixes=("model.generation_embeddings.",), carried=True),
    "gen_aligner": ModelPart(prefixes=("model.generation_aligner.",), carried=True),
    "gen_head": ModelPart(prefixes=("model.generation_head.",), carried=True),
}

FULL = PartPlan("full")
LORA = PartPlan("lora")

# The three stages of Janus-Pro (arXiv 2501.17811, section 2.2 and table 2), as far as they train
# understanding: stage 1 both adaptors and the image head, stage 2 everything but the two image
# encoders, stage 3 the understanding encoder too. The encoder of image generation never trains.
PRESETS: dict[str, Plan] = {
    "align": {
        "aligner": FULL,
    },
    "pretrain": {
        "aligner": FULL,
        "embed_tokens": FULL,
        "language_model": FULL,
        "lm_head": FULL,
    },
    "sft": {
        "siglip": FULL,
        "aligner": FULL,
        "embed_tokens": FULL,
        "language_model": FULL,
        "lm_head": FULL,
    },
    "full": {name: FULL for name, part in PARTS.items() if not part.carried},
    "lora": {"language_model": LORA},
    "qlora": {"language_model": LORA},
    "none": {},
}
