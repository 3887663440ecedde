"""The named parts of a ViP-LLaVA model, and the plans that have names."""

from __future__ import annotations

from dsvl_tune.core.family import ModelPart, PartPlan, Plan

PARTS = {
    "tower": ModelPart(
        prefixes=("model.vision_tower.",),
        lora_targets=(
            r"model\.vision_tower\.encoder\.layers\.\d+"
            r"\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
        ),
        checkpointed_module="vision_tower",
    ),
    "projector": ModelPart(
        prefixes=("model.multi_modal_projector.",),
        lora_targets=r"model\.multi_modal_projector\.linear_[12]",
    ),
    "embed_tokens": ModelPart(prefixes=("model.language_model.embed_tokens.",)),
    "language_model": ModelPart(
        prefixes=("model.language_model.",),
        lora_targets=(
            r"model\.language_model\.layers\.\d+"
            r"\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
        ),
        checkpointed_module="language_model",
        quantizable=True,
    ),
    "lm_head": ModelPart(prefixes=("lm_head.",), lora_targets=r"lm_head"),
}

PRESETS: dict[str, Plan] = {
    "lora": {"language_model": PartPlan("lora")},
    "align": {"projector": PartPlan("full")},
    "none": {},
}
