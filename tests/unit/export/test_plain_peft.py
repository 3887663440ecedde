"""An adapter folder in plain peft and plain transformers: the trained model, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from random_training import SAME, apart, logits, train_randomly
from transformers import AutoModelForImageTextToText

from dsvl_tune.core.family import PartPlan
from dsvl_tune.export.merge_adapter import read_changes
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapter_readme import readme_with_base
from dsvl_tune.models.finetuning.adapters import load_trained, save_trained
from dsvl_tune.models.finetuning.trained_files import OWN_CONFIG

LORA, FULL = PartPlan("lora", rank=3), PartPlan("full")
GOLDEN = Path(__file__).parents[2] / "golden"

# name: preset, parts on top of it, whether plain peft loads the folder
PLANS: dict[str, tuple[str, dict[str, PartPlan], bool]] = {
    **{
        preset: (preset, {}, preset in ("lora", "qlora"))
        for preset in DEEPSEEK_VL.presets
        if preset != "none"
    },
    "aligner": ("lora", {"aligner": FULL}, True),
    "embeddings and head": ("lora", {"embed_tokens": FULL, "lm_head": FULL}, True),
    "a whole tower": ("lora", {"siglip": FULL}, True),
    "the language model": ("none", {"siglip": LORA, "language_model": FULL}, True),
    "the language model with its embeddings": (
        "none",
        {"aligner": LORA, "language_model": FULL, "embed_tokens": FULL},
        True,
    ),
}
HYBRID_PLANS: dict[str, tuple[str, dict[str, PartPlan], bool]] = {
    "a neck in an adapted tower": ("lora", {"sam": LORA, "sam_neck": FULL}, True),
    "convolutions": ("lora", {"downsample": FULL}, True),
    "a bare parameter": ("lora", {"sam_neck_hd": FULL}, False),
    "a whole tower": ("lora", {"sam": FULL, "sam_neck": FULL}, True),
    "a whole tower but its neck": ("lora", {"sam": FULL}, False),
}


def check_plan(folder: Path, adapter: Path, preset: str, parts: Any, loads: bool) -> None:
    """Train by a plan, save it, and load it by all that read adapters."""
    model = train_randomly(folder, parts, preset=preset)
    wanted = logits(model)
    save_trained(model, adapter, open_checkpoint(folder))
    ours = create_model(open_checkpoint(folder))
    assert apart(logits(ours), wanted) > 1e-2
    load_trained(ours, adapter)
    assert apart(logits(ours), wanted) <= SAME
    readme = (adapter / "README.md").read_text(encoding="utf-8")
    assert str(folder.parent) not in readme and f"`{folder.name}` (a local folder)" in readme
    if not loads:
        assert "Merge the run" in readme and "from peft" not in readme
        with pytest.raises(ValueError, match=r"Can't find 'adapter_config.json'"):
            PeftModel.from_pretrained(
                AutoModelForImageTextToText.from_pretrained(folder), str(adapter)
            )
        with pytest.raises(ValueError, match="Unrecognized model"):
            AutoModelForImageTextToText.from_pretrained(adapter)
        return
    assert {path.name for path in adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    peft = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(folder), adapter)
    assert apart(logits(peft.eval()), wanted) <= SAME
    assert apart(logits(AutoPeftModel.from_pretrained(adapter).eval()), wanted) <= SAME
    followed = AutoModelForImageTextToText.from_pretrained(adapter).eval()
    assert apart(logits(followed), wanted) <= SAME


@pytest.mark.parametrize("plan", PLANS)
def test_the_trained_model_or_an_error(checkpoint: Path, tmp_path: Path, plan: str) -> None:
    preset, parts, loads = PLANS[plan]
    check_plan(checkpoint, tmp_path, preset, parts, loads)


@pytest.mark.parametrize("plan", HYBRID_PLANS)
def test_parts_of_the_high_resolution_tower(
    hybrid_checkpoint: Path, tmp_path: Path, plan: str
) -> None:
    preset, parts, loads = HYBRID_PLANS[plan]
    check_plan(hybrid_checkpoint, tmp_path, preset, parts, loads)


def test_every_plan_but_none_is_tested() -> None:
    assert set(DEEPSEEK_VL.presets) - {"none"} <= set(PLANS)


@pytest.mark.parametrize("preset", [name for name in DEEPSEEK_VL2.presets if name != "none"])
def test_plain_peft_has_no_network_for_deepseek_vl2_and_says_so(
    deepseek_vl2_checkpoint: Path, tmp_path: Path, preset: str
) -> None:
    model = train_randomly(deepseek_vl2_checkpoint, {}, preset=preset)
    save_trained(model, tmp_path, open_checkpoint(deepseek_vl2_checkpoint))
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Merge the run" in readme and "from peft" not in readme
    with pytest.raises(ValueError, match=r"not in the import allowlist|Can't find 'adapter_config"):
        AutoPeftModel.from_pretrained(tmp_path)


def test_a_base_in_the_original_layout_is_named_and_never_half_loaded(tmp_path: Path) -> None:
    folder = GOLDEN / "siglip" / "checkpoint"
    model = train_randomly(folder, {"language_model": LORA})
    save_trained(model, tmp_path, open_checkpoint(folder))
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(folder)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "dsvl-tune convert BASE converted --to transformers" in readme
    published = readme_with_base(readme, "owner/base")
    assert (
        "dsvl-tune convert owner/base converted" in published
        and "- base: `owner/base`" in published
    )
    assert "BASE" not in published and "local folder" not in published
    for load in (AutoPeftModel, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match="auto class|multi_modality"):
            load.from_pretrained(tmp_path)


def test_a_saved_folder_of_other_parts_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    base = open_checkpoint(checkpoint)
    save_trained(train_randomly(checkpoint, {"aligner": FULL}), tmp_path, base)
    save_trained(train_randomly(checkpoint, {"aligner": LORA}), tmp_path, base)
    assert not (tmp_path / "full_parts.safetensors").exists()
    assert all(
        change.replacement is None for change in read_changes(tmp_path, DEEPSEEK_VL).values()
    )


def test_tied_embeddings_stay_with_us(checkpoint: Path, tmp_path: Path) -> None:
    """peft would replace the embeddings and leave the head as it was."""
    model = train_randomly(checkpoint, {"language_model": LORA, "embed_tokens": FULL})
    model.lm_head.weight = model.get_input_embeddings().weight
    save_trained(model, tmp_path, open_checkpoint(checkpoint))
    assert (tmp_path / OWN_CONFIG).is_file() and not (tmp_path / "adapter_config.json").exists()


def test_two_adapters_on_one_base_and_their_weighted_sum(checkpoint: Path, tmp_path: Path) -> None:
    """Against the sum that one gets from the merged weights."""
    deltas = []
    base = create_model(open_checkpoint(checkpoint)).state_dict()
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    for number, noise in enumerate((0.05, 0.08)):
        model = train_randomly(checkpoint, {"language_model": LORA}, noise=noise)
        save_trained(model, tmp_path / str(number), open_checkpoint(checkpoint))
        change = read_changes(tmp_path / str(number), DEEPSEEK_VL)[name]
        deltas.append(change.apply(base[name]) - base[name])
    peft = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(checkpoint), tmp_path / "0", "first"
    )
    peft.load_adapter(tmp_path / "1", "second")
    peft.add_weighted_adapter(["first", "second"], [0.7, 0.2], "sum", combination_type="cat")
    peft.set_adapter("sum")
    merged = peft.merge_and_unload().state_dict()
    wanted = base[name] + 0.7 * deltas[0] + 0.2 * deltas[1]
    assert torch.allclose(merged[name], wanted.float(), atol=1e-6)
