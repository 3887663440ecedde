"""The named parts of a DeepSeek-VL model, and the plans that have names."""

from __future__ import annotations

from dsvl_tune.core.family import ModelPart, PartPlan, Plan

LANGUAGE_PARTS: dict[str, ModelPart] = {
    "embed_tokens": ModelPart(
        prefixes=("model.language_model.embed_tokens.",),
    ),
    "language_model": ModelPart(
        prefixes=("model.language_model.",),
        lora_targets=(
            r"model\.language_model\.layers\.\d+"
            r"\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
        ),
        checkpointed_module="language_model",
        quantizable=True,
    ),
    "lm_head": ModelPart(
        prefixes=("lm_head.",),
        lora_targets=r"lm_head",
    ),
}
"""Parts of the LLaMA-style language model."""

# LoRA targets are anchored at their part: bare names such as "q_proj" would also match SigLIP's
# layers, and "all-linear" of peft its unused pooling head. Those of SigLIP also fit the names of
# releases of transformers before 5 (SIGLIP_IN_FILES in key_map.py), so adapters load there, too.
PARTS: dict[str, ModelPart] = {
    "siglip": ModelPart(
        prefixes=("model.vision_model.",),
        lora_targets=(
            r"model\.vision_model\.(vision_model\.)?encoder\.layers\.\d+"
            r"\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
        ),
        checkpointed_module="vision_model",
    ),
    "sam": ModelPart(
        prefixes=("model.high_res_vision_model.",),
        lora_targets=(
            r"model\.high_res_vision_model\.vision_encoder\.layers\.\d+"
            r"\.(attn\.(qkv|proj)|mlp\.lin[12])"
        ),
        optional=True,
        checkpointed_module="high_res_vision_model",
    ),
    "sam_neck": ModelPart(
        prefixes=("model.high_res_vision_model.vision_encoder.neck.",),
        optional=True,
    ),
    "sam_neck_hd": ModelPart(
        prefixes=("model.high_res_vision_neck.", "model.high_res_vision_alpha"),
        optional=True,
    ),
    "downsample": ModelPart(
        prefixes=("model.high_res_vision_proj.",),
        optional=True,
    ),
    "aligner": ModelPart(
        prefixes=("model.aligner.",),
        lora_targets=r"model\.aligner\.(vision_proj|high_res_vision_proj|proj|linear[12])",
    ),
    **LANGUAGE_PARTS,
}

SAM_PARTS = tuple(name for name, part in PARTS.items() if part.optional)
"""The parts that the hybrid models have and the SigLIP-only ones lack."""

FULL = PartPlan("full")
LORA = PartPlan("lora")

# The paper's three stages (arXiv 2403.05525, section 3.2): which parts train. In the paper the two
# downsampling convolutions belong to the adaptor; in the released code they are part of the SAM
# module. The necks and alpha train with them in stage 1 here: alpha starts at 0, so some stage must
# have moved it.
PRESETS: dict[str, Plan] = {
    "align": {
        "aligner": FULL,
        "downsample": FULL,
        "sam_neck_hd": FULL,
    },
    "pretrain": {
        "aligner": FULL,
        "downsample": FULL,
        "sam_neck_hd": FULL,
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
    "full": dict.fromkeys(PARTS, FULL),
    "lora": {"language_model": LORA},
    "qlora": {"language_model": LORA},
    "none": {},
}
