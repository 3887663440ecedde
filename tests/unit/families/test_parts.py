"""Every tensor belongs to a part, and a plan opens exactly what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, part_of
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.deepseek_vl.parts import PARTS, PRESETS
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan


def trained_parts(folder: Path, preset: str, parts: dict[str, PartPlan] | None = None) -> set[str]:
    model = create_model(open_checkpoint(folder))
    plan = make_plan(DEEPSEEK_VL, preset, parts)  # type: ignore[arg-type]
    apply_plan(model, fit_plan(plan, model, set(parts or {})))
    return {
        part_of(name, PARTS)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_presets_train_what_they_name(hybrid_checkpoint: Path) -> None:
    for preset, plan in PRESETS.items():
        if plan:
            assert trained_parts(hybrid_checkpoint, preset) == set(plan)


def test_necks_and_alpha_are_parts_of_their_own() -> None:
    assert (
        part_of("model.high_res_vision_model.vision_encoder.neck.conv1.weight", PARTS) == "sam_neck"
    )
    assert (
        part_of("model.high_res_vision_model.vision_encoder.layers.0.attn.qkv.weight", PARTS)
        == "sam"
    )
    assert part_of("model.high_res_vision_alpha", PARTS) == "sam_neck_hd"
    # aligner has a submodule with the name of the downsampler
    assert part_of("model.aligner.high_res_vision_proj.weight", PARTS) == "aligner"
    assert part_of("model.high_res_vision_proj.conv1.weight", PARTS) == "downsample"


def test_lora_on_one_tower_does_not_touch_another(hybrid_checkpoint: Path) -> None:
    """The trap: q_proj and v_proj are names of SigLIP's layers and of the language model's."""
    assert trained_parts(hybrid_checkpoint, "none", {"language_model": PartPlan("lora")}) == {
        "language_model"
    }
    assert trained_parts(hybrid_checkpoint, "none", {"siglip": PartPlan("lora")}) == {"siglip"}
    assert trained_parts(hybrid_checkpoint, "none", {"sam": PartPlan("lora")}) == {"sam"}


def test_rank_and_alpha_are_each_parts_own(hybrid_checkpoint: Path) -> None:
    """The trap: a rank pattern without an alpha pattern changes the scaling."""
    model = create_model(open_checkpoint(hybrid_checkpoint))
    parts = {
        "language_model": PartPlan("lora", rank=4),
        "aligner": PartPlan("lora", rank=2, alpha=3),
    }
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, "none", parts), model, set(parts)))
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            expected = (2, 1.5) if part_of(name + ".weight", PARTS) == "aligner" else (4, 2.0)
            assert (module.r["default"], module.scaling["default"]) == expected


def test_a_sixteen_bit_base_keeps_its_dtype_and_trains_in_float32(hybrid_checkpoint: Path) -> None:
    model = create_model(open_checkpoint(hybrid_checkpoint), torch.bfloat16)
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, "lora", None), model, set()))
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)


def test_unknown_part_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'aligner'"):
        make_plan(DEEPSEEK_VL, "lora", {"alinger": PartPlan("full")})


def test_lora_where_there_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="downsample cannot have lora"):
        make_plan(DEEPSEEK_VL, "none", {"downsample": PartPlan("lora")})


def test_a_plan_that_trains_nothing_is_refused(hybrid_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="nothing would be trained"):
        trained_parts(hybrid_checkpoint, "none")
