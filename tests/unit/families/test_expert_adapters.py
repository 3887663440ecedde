"""LoRA on routed experts: peft's files and numbers, without its copies of all experts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import ParamWrapper
from quiet_trainer import quiet_trainer
from random_training import ROUNDED, SAME, apart, logits, train_randomly
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Prompts
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.export.merge_adapter import check_changes, merge_into, read_changes
from dsvl_tune.export.verify import verify
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.models.build import Adaptation
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import adapted_layers, load_trained, save_trained
from dsvl_tune.models.finetuning.expert_adapters import GroupedAdapter
from dsvl_tune.training.callbacks.plan_check import PlanCheck
from dsvl_tune.training.module import FinetuneModule

PARTS = {
    "experts": PartPlan("lora", rank=3, alpha=5),
    "attention": PartPlan("lora", rank=2),
}
LAYER = "model.language_model.layers.1.mlp.experts"


def plain_peft(folder: Path, adapter: Path) -> Any:
    """The adapter in plain peft, on the class that it was trained in."""
    base = AutoModelForImageTextToText.from_pretrained(folder)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()


def gradients(model: Any, prefix: str = "") -> dict[str, Tensor]:
    ids = torch.randint(10, 400, (2, 15), generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {
        name.removeprefix(prefix): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_values_gradients_and_merge_are_those_of_plain_peft(
    deepseek_vl2_checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    base = open_checkpoint(deepseek_vl2_checkpoint)
    model = train_randomly(deepseek_vl2_checkpoint, PARTS, variant)
    save_trained(model, tmp_path / "adapter", base)
    peft = plain_peft(deepseek_vl2_checkpoint, tmp_path / "adapter")
    assert sum(type(module) is ParamWrapper for module in peft.modules()) == 4
    assert sum(type(module) is GroupedAdapter for module in model.modules()) == 4

    ours, theirs = gradients(model), gradients(peft, "base_model.model.")
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-3, atol=1e-6), name

    loaded = create_model(base)
    load_trained(loaded, tmp_path / "adapter")
    wanted = logits(model, text_only=True)
    assert apart(logits(loaded, text_only=True), wanted) == 0.0
    assert apart(logits(peft, text_only=True), wanted) <= SAME
    assert apart(logits(create_model(base), text_only=True), wanted) > 1e-2

    weights = Weights(base)
    changes = read_changes(tmp_path / "adapter", DEEPSEEK_VL2, weights.shapes)
    check_changes(weights, changes)
    (tmp_path / "merged").mkdir()
    merge_into(weights, changes, tmp_path / "merged", "original", None)
    written = create_model(open_checkpoint(tmp_path / "merged"))
    assert apart(logits(written, text_only=True), wanted) <= ROUNDED
    merged = peft.double().merge_and_unload().state_dict()
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, merged[name].float()), name


def test_what_is_written_is_verified(deepseek_vl2_checkpoint: Path, tmp_path: Path) -> None:
    """A merge that missed one expert is refused."""
    base = open_checkpoint(deepseek_vl2_checkpoint)
    save_trained(train_randomly(deepseek_vl2_checkpoint, PARTS), tmp_path / "adapter", base)
    weights = Weights(base)
    changes = read_changes(tmp_path / "adapter", DEEPSEEK_VL2, weights.shapes)
    (tmp_path / "merged").mkdir()
    merge_into(weights, changes, tmp_path / "merged", "transformers", torch.bfloat16)
    ids = torch.randint(10, 400, (2, 9))
    prompts = Prompts(
        **{"input_ids": ids, "attention_mask": torch.ones_like(ids), "vision_inputs": {}},
        **{"image_counts": [0, 0], "image_index": torch.zeros(0, dtype=torch.int64)},
        **{"references": [], "question_types": [], "questions": [], "sources": [], "numbers": []},
    )
    report = verify(base, tmp_path / "adapter", open_checkpoint(tmp_path / "merged"), prompts)
    assert report["float64"]["mean_logit_difference"] <= report["float64"]["mean_bound"]

    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    tensors[f"{LAYER}.down_proj"][5] = weights.read(f"{LAYER}.down_proj")[5].bfloat16()
    save_file(tensors, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{LAYER}.down_proj is not what peft makes"):
        verify(base, tmp_path / "adapter", open_checkpoint(tmp_path / "merged"), prompts)


def test_no_step_holds_a_copy_of_the_experts(deepseek_vl2_checkpoint: Path) -> None:
    model = train_randomly(deepseek_vl2_checkpoint, PARTS)
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gradients(model)
    assert (
        kept and max(kept) < model.get_parameter(f"{LAYER}.base_layer.base_layer.down_proj").numel()
    )


def test_adapters_are_on_experts_only_where_asked(deepseek_vl2_checkpoint: Path) -> None:
    model = train_randomly(deepseek_vl2_checkpoint, {"experts": PartPlan("lora", rank=2)})
    names = ("gate_up_proj", "down_proj")
    assert sorted(adapted_layers(model)) == sorted(
        f"model.language_model.layers.{layer}.mlp.experts.{name}"
        for layer in (1, 2)
        for name in names
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 2 * 8 * 2 * ((64 + 128) + (64 + 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"variant": "dora"}, "experts cannot have dora"), ({"dropout": 0.1}, "Set it to 0")],
)
def test_what_peft_has_not_for_experts_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Adaptation(preset="lora", parts=PARTS, **settings).requested_plan(DEEPSEEK_VL2)


def test_an_adapter_of_other_experts_is_refused(
    deepseek_vl2_checkpoint: Path, tmp_path: Path
) -> None:
    base = open_checkpoint(deepseek_vl2_checkpoint)
    save_trained(train_randomly(deepseek_vl2_checkpoint, PARTS), tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = f"base_model.model.{LAYER}.base_layer.lora_A.weight"
    other = f"base_model.model.{LAYER}.base_layer.lora_B.weight"
    fewer = {name: tensors[name][:21].clone(), other: tensors[other][:, :21].clone()}
    save_file(tensors | fewer, path)
    with pytest.raises(UserError, match=r"shape \[21, 64\], expected \[24, 64\] for 8 experts"):
        load_trained(create_model(base), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"lora_A \[21, 64\] and lora_B \[128, 21\]"):
        read_changes(tmp_path / "adapter", DEEPSEEK_VL2, Weights(base).shapes)


def test_experts_that_no_token_chose_are_named(
    deepseek_vl2_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The correction bias of one layer keeps every token from its sixth expert."""
    folder = Path(shutil.copytree(deepseek_vl2_checkpoint, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.layers.1.mlp.gate.e_score_correction_bias"][5] = -100.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    module = FinetuneModule(str(folder), "none", PARTS, lr=1e-3, warmup_steps=0)
    data = ChartsDataModule(checkpoint=str(folder), train_charts=6, validation_charts=1)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0, callbacks=[PlanCheck(tmp_path)])
    trainer.fit(module, datamodule=data)
    printed = capsys.readouterr().out
    assert "experts 2 down_proj, 2 gate_up_proj" in printed
    assert "2 of 32 matrices of experts never had a gradient" in printed
    assert f"{LAYER}.base_layer.lora_B.default.weight[5]" in printed
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert plan["experts"]["adapted_layers"] == {"gate_up_proj": 2, "down_proj": 2}
