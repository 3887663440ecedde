"""The named parts of a DeepSeek-VL model, and the plans that have names."""

from __future__ import annotations

import difflib
from typing import Literal

from torch import nn

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.base import ModelPart, PartPlan, Plan

# LoRA targets are anchored at their part: bare names such as "q_proj" would also match SigLIP's
# layers, and "all-linear" of peft its unused pooling head.
PARTS: dict[str, ModelPart] = {
    "siglip": ModelPart(
        prefixes=("model.vision_model.",),
        lora_targets=(
            r"model\.vision_model\.encoder\.layers\.\d+"
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
    ),
    "lm_head": ModelPart(
        prefixes=("lm_head.",),
        lora_targets=r"lm_head",
    ),
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

# Until everything asks the family: the tables above under their former names.
PREFIXES = {name: part.prefixes for name, part in PARTS.items()}
LORA_TARGETS = {name: part.lora_targets for name, part in PARTS.items() if part.lora_targets}
HYBRID_ONLY = SAM_PARTS
Preset = Literal["align", "pretrain", "sft", "full", "lora", "qlora", "none"]


def part_of(name: str) -> str:
    """The part that a tensor belongs to, by its name in transformers' layout (adapters inside count)."""
    fits = [
        (len(prefix), part)
        for part, prefixes in PREFIXES.items()
        for prefix in prefixes
        if name.startswith(prefix)
    ]
    if not fits:
        raise ValueError(f"tensor {name} belongs to no known part")
    return max(fits)[1]


def part_names(model: nn.Module) -> list[str]:
    """The parts that this model has, in the order of the table above."""
    present = {part_of(name) for name, _ in model.named_parameters()}
    return [part for part in PREFIXES if part in present]


def make_plan(preset: Preset, overrides: dict[str, PartPlan] | None) -> Plan:
    """A preset with some parts replaced, and every part not named frozen.

    Raises:
        UserError: an override names a part that does not exist, or wants LoRA where there is no linear layer.
    """
    for name in overrides or {}:
        if name not in PREFIXES:
            near = difflib.get_close_matches(name, PREFIXES, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"model.parts: there is no part {name!r}.{hint} The parts are: {', '.join(PREFIXES)}."
            )
        if (overrides or {})[name].mode == "lora" and name not in LORA_TARGETS:
            raise UserError(
                f"model.parts: {name} cannot have lora (convolutions, embeddings, bare tensors). Use mode full or "
                f"frozen; lora fits {', '.join(LORA_TARGETS)}."
            )
    chosen = {**PRESETS[preset], **(overrides or {})}
    return {part: chosen.get(part, PartPlan()) for part in PREFIXES}


def fit_plan(plan: Plan, model: nn.Module, overridden: set[str]) -> Plan:
    """The plan for the parts that this model has.

    A preset serves both families, so what it says of SAM is dropped for a SigLIP-only model; what the user said is not.

    Raises:
        UserError: the user named a part of the hybrid family for a SigLIP-only model, or nothing would train.
    """
    present = part_names(model)
    for part in overridden - set(present):
        if plan[part].mode != "frozen" and part in HYBRID_ONLY:
            raise UserError(
                f"model.parts: {part!r} is a part of the hybrid family; this checkpoint is SigLIP-only."
            )
    fitted = {part: plan[part] for part in present}
    if all(part.mode == "frozen" for part in fitted.values()):
        raise UserError(
            "model.parts: every part is frozen, nothing would be trained. Give a part mode: full or lora."
        )
    return fitted
