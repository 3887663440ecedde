"""The named parts of a DeepSeek-VL, and the plan that says what happens to each.

A plan is data: part -> `PartPlan`. Presets are plans with names; a recipe overrides any part of one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from torch import nn

from dsvl_tune.core.errors import UserError

# Part -> prefixes of its tensors in transformers' layout; the longest prefix that fits wins.
PREFIXES: dict[str, tuple[str, ...]] = {
    "siglip": ("model.vision_model.",),
    "sam": ("model.high_res_vision_model.",),
    "sam_neck": ("model.high_res_vision_model.vision_encoder.neck.",),
    "sam_neck_hd": ("model.high_res_vision_neck.", "model.high_res_vision_alpha"),
    "downsample": ("model.high_res_vision_proj.",),
    "aligner": ("model.aligner.",),
    "embed_tokens": ("model.language_model.embed_tokens.",),
    "language_model": ("model.language_model.",),
    "lm_head": ("lm_head.",),
}
HYBRID_ONLY = ("sam", "sam_neck", "sam_neck_hd", "downsample")

# The linear layers of each part that has any, anchored at the part: bare names such as "q_proj" would also hit SigLIP,
# and peft's "all-linear" its unused pooling head.
LORA_TARGETS = {
    "siglip": r"model\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    "sam": r"model\.high_res_vision_model\.vision_encoder\.layers\.\d+\.(attn\.(qkv|proj)|mlp\.lin[12])",
    "aligner": r"model\.aligner\.(vision_proj|high_res_vision_proj|proj|linear[12])",
    "language_model": r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    "lm_head": r"lm_head",
}

Mode = Literal["frozen", "full", "lora"]


@dataclass(frozen=True)
class PartPlan:
    """What happens to one part.

    Args:
        mode: frozen (no gradient), full (every tensor trained) or lora (low-rank adapters on its linear layers).
        lr: learning rate; None takes `model.lr`.
        rank: width of the adapters (lora only).
        alpha: adapters are scaled by alpha / rank; None takes 2 x rank.
    """

    mode: Mode = "frozen"
    lr: float | None = None
    rank: int = 16
    alpha: float | None = None

    @property
    def scale_alpha(self) -> float:
        """Alpha with its default filled in."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


Plan = dict[str, PartPlan]

_FULL, _LORA = PartPlan("full"), PartPlan("lora")

# The paper's three stages (arXiv 2403.05525, section 3.2): which parts train. The two downsampling convolutions belong
# to the adaptor in the paper; in the released code they are part of the SAM module. The necks and alpha train with them
# in stage 1 here: alpha starts at 0, so some stage must have moved it.
PRESETS: dict[str, Plan] = {
    "align": {"aligner": _FULL, "downsample": _FULL, "sam_neck_hd": _FULL},
    "pretrain": {
        **{"aligner": _FULL, "downsample": _FULL, "sam_neck_hd": _FULL},
        **{"embed_tokens": _FULL, "language_model": _FULL, "lm_head": _FULL},
    },
    "sft": {
        "siglip": _FULL,
        "aligner": _FULL,
        **{"embed_tokens": _FULL, "language_model": _FULL, "lm_head": _FULL},
    },
    "full": dict.fromkeys(PREFIXES, _FULL),
    "lora": {"language_model": _LORA},
    "qlora": {"language_model": _LORA},
    "none": {},
}
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
