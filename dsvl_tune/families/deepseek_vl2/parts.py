"""The named parts of a DeepSeek-VL2 model, and the plans that have names."""

from __future__ import annotations

from dsvl_tune.core.family import ModelPart, PartPlan, Plan

LAYERS = "model.language_model.layers.*."
LAYER = r"model\.language_model\.layers\.\d+\."

PARTS: dict[str, ModelPart] = {
    "siglip": ModelPart(
        prefixes=("model.vision_tower.",),
        lora_targets=(
            r"model\.vision_tower\.encoder\.layers\.\d+"
            r"\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
        ),
        checkpointed_module="vision_tower",
    ),
    "projector": ModelPart(
        prefixes=("model.projector.",),
        lora_targets=r"model\.projector\.linear[12]",
    ),
    "tile_embeddings": ModelPart(
        prefixes=("model.image_newline", "model.view_separator"),
    ),
    "embed_tokens": ModelPart(
        prefixes=("model.language_model.embed_tokens.",),
    ),
    "attention": ModelPart(
        prefixes=(f"{LAYERS}self_attn.",),
        # MHA has q, k, v; MLA has q (or q_a and q_b), kv_a and kv_b.
        lora_targets=(LAYER + r"self_attn\.((q|k|v|o|q_a|q_b|kv_b)_proj|kv_a_proj_with_mqa)"),
        # Recomputed are whole layers of the decoder, MLPs and experts included.
        checkpointed_module="language_model",
        quantizable=True,
    ),
    "mlp": ModelPart(
        prefixes=(f"{LAYERS}mlp.",),
        lora_targets=LAYER + r"mlp\.(shared_experts\.)?(gate|up|down)_proj",
        quantizable=True,
    ),
    "experts": ModelPart(
        prefixes=(f"{LAYERS}mlp.experts.",),
        lora_targets=LAYER + r"mlp\.experts\.(gate_up|down)_proj",
        quantizable=True,
        is_experts=True,
    ),
    "router": ModelPart(
        prefixes=(f"{LAYERS}mlp.gate.",),
    ),
    "norms": ModelPart(
        prefixes=("model.language_model.",),
    ),
    "lm_head": ModelPart(
        prefixes=("lm_head.",),
        lora_targets=r"lm_head",
    ),
}

FULL = PartPlan("full")
LORA = PartPlan("lora")

# The paper's stages (arXiv 2412.10302, table 2): first the vision side alone, then everything, the
# vision tower with a tenth of the learning rate (recipes set it). The router stays frozen here in
# every plan but "full": without the balance loss of pretraining it would drift.
VISION: Plan = {"siglip": FULL, "projector": FULL, "tile_embeddings": FULL}
LANGUAGE: Plan = dict.fromkeys(
    ("embed_tokens", "attention", "mlp", "experts", "norms", "lm_head"), FULL
)
PRESETS: dict[str, Plan] = {
    "align": VISION,
    "sft": {**VISION, **LANGUAGE},
    "full": dict.fromkeys(PARTS, FULL),
    "lora": {"attention": LORA, "mlp": LORA},
    "qlora": {"attention": LORA, "mlp": LORA},
    "none": {},
}
