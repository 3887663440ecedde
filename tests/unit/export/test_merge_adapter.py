"""Streamed merging against peft's own, and the adapter folder in plain peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from random_training import ROUNDED, SAME, apart, logits, train_randomly
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from dsvl_tune.core.checkpoint.weight_headers import weight_files
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.export.merge_adapter import check_changes, merge_into, read_changes
from dsvl_tune.export.write_weights import Layout
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import load_trained, save_trained

PARTS = {
    "language_model": PartPlan("lora", rank=4),
    "aligner": PartPlan("lora", rank=2, alpha=3),
    "siglip": PartPlan("lora", rank=3),
}


def merge(
    base: Path, folder: Path, dtype: torch.dtype | None = None, layout: Layout = "transformers"
) -> Path:
    """Merge `folder`/adapter into a base, into a new folder."""
    weights = Weights(open_checkpoint(base))
    changes = read_changes(folder / "adapter", DEEPSEEK_VL)
    check_changes(weights, changes)
    target = folder / f"merged_{layout}_{dtype}"
    target.mkdir()
    merge_into(weights, changes, target, layout, dtype)
    return target


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_merged_peft_and_trained_agree(checkpoint: Path, tmp_path: Path, variant: str) -> None:
    model = train_randomly(checkpoint, PARTS, variant)
    save_trained(model, tmp_path / "adapter", open_checkpoint(checkpoint))
    merged = merge(checkpoint, tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(merged).eval()
    peft = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(checkpoint), tmp_path / "adapter"
    )
    wanted = logits(model)
    assert apart(logits(plain), wanted) <= ROUNDED
    assert apart(logits(peft), wanted) <= SAME
    assert apart(logits(create_model(open_checkpoint(checkpoint))), wanted) > 1e-2
    untouched = set(weight_files(checkpoint)) - set(read_changes(tmp_path / "adapter", DEEPSEEK_VL))
    before = AutoModelForImageTextToText.from_pretrained(checkpoint).state_dict()
    after = plain.state_dict()
    assert untouched
    assert all(torch.equal(before[name], after[name]) for name in untouched)


def test_fully_trained_parts_with_adapters(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    """alpha is a bare parameter that peft can neither adapt nor save: it must not be lost."""
    parts = {
        "language_model": PartPlan("lora"),
        "aligner": PartPlan("full"),
        "sam_neck_hd": PartPlan("full"),
    }
    model = train_randomly(hybrid_checkpoint, parts)
    save_trained(model, tmp_path / "adapter", open_checkpoint(hybrid_checkpoint))
    again = create_model(open_checkpoint(hybrid_checkpoint))
    load_trained(again, tmp_path / "adapter")
    merged = merge(hybrid_checkpoint, tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(merged).eval()
    assert apart(logits(again), logits(model)) <= SAME
    assert apart(logits(plain), logits(model)) <= ROUNDED


@pytest.mark.parametrize("variant", ["rslora", "dora"])
@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_the_original_layout_gets_the_same_merge(family: str, variant: str, tmp_path: Path) -> None:
    """Adapters on SigLIP's three projections go into the original's one."""
    base = Path(__file__).parents[2] / "golden" / family / "checkpoint"
    model = train_randomly(base, {**PARTS, "lm_head": PartPlan("full")}, variant)
    save_trained(model, tmp_path / "adapter", open_checkpoint(base))
    plain, there = (
        create_model(open_checkpoint(merge(base, tmp_path, torch.float32, layout)))
        for layout in ("transformers", "original")
    )
    other = there.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in plain.state_dict().items())
    assert apart(logits(there, text_only=True), logits(model, text_only=True)) <= ROUNDED


def test_a_value_too_large_for_the_written_dtype_is_refused(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    model = train_randomly(hybrid_checkpoint, {"aligner": PartPlan("full")})
    with torch.no_grad():
        model.model.aligner.proj.weight[0, 0] = 1e6
    save_trained(model, tmp_path / "adapter", open_checkpoint(hybrid_checkpoint))
    with pytest.raises(
        UserError, match=r"model.aligner.proj.weight: a value does not fit torch.float16"
    ):
        merge(hybrid_checkpoint, tmp_path, torch.float16)


def test_an_adapter_of_another_width_is_refused(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    model = train_randomly(hybrid_checkpoint, {"language_model": PartPlan("lora")})
    save_trained(model, tmp_path / "adapter", open_checkpoint(hybrid_checkpoint))
    changes = read_changes(tmp_path / "adapter", DEEPSEEK_VL)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    changes[name].lora_b = torch.zeros(7, 16)
    with pytest.raises(
        UserError, match=r"up_proj.weight has shape \[80, 48\], what was trained has \[7, 48\]"
    ):
        check_changes(Weights(open_checkpoint(hybrid_checkpoint)), changes)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "full_parts.safetensors"])
def test_trained_tensors_of_integers_are_refused(
    hybrid_checkpoint: Path, tmp_path: Path, file: str
) -> None:
    """By merging and by loading; they would be merged as if they were weights."""
    parts = {"language_model": PartPlan("lora"), "sam_neck_hd": PartPlan("full")}
    save_trained(
        train_randomly(hybrid_checkpoint, parts),
        tmp_path / "adapter",
        open_checkpoint(hybrid_checkpoint),
    )
    path = tmp_path / "adapter" / file
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].to(torch.int8)}, path)
    with pytest.raises(UserError, match=f"{file}: tensor {name} is I8"):
        read_changes(tmp_path / "adapter", DEEPSEEK_VL)
    model = create_model(open_checkpoint(hybrid_checkpoint))
    with pytest.raises(UserError, match=f"{file}: tensor {name} is I8"):
        load_trained(model, tmp_path / "adapter")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    model = train_randomly(checkpoint, {"language_model": PartPlan("lora")})
    save_trained(model, tmp_path / "adapter", open_checkpoint(checkpoint))
    changes = read_changes(tmp_path / "adapter", DEEPSEEK_VL)
    changes["model.language_model.layers.9.mlp.up_proj.weight"] = next(iter(changes.values()))
    with pytest.raises(UserError, match="have no place"):
        check_changes(Weights(open_checkpoint(checkpoint)), changes)


def test_written_dtype(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    model = train_randomly(hybrid_checkpoint, PARTS)
    save_trained(model, tmp_path / "adapter", open_checkpoint(hybrid_checkpoint))
    half = AutoModelForImageTextToText.from_pretrained(
        merge(hybrid_checkpoint, tmp_path, torch.bfloat16), dtype="auto"
    )
    assert half.dtype == torch.bfloat16
    assert apart(logits(half.float()), logits(model)) < 0.5


@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_an_original_base_is_merged_into_transformers_layout(family: str, tmp_path: Path) -> None:
    base = Path(__file__).parents[2] / "golden" / family / "checkpoint"
    model = train_randomly(
        base, {"language_model": PartPlan("lora", rank=4), "aligner": PartPlan("full")}
    )
    save_trained(model, tmp_path / "adapter", open_checkpoint(base))
    merged = merge(base, tmp_path, torch.float32)
    plain = AutoModelForImageTextToText.from_pretrained(merged)
    assert plain.config.tie_word_embeddings is False
    before, after = model.state_dict(), plain.state_dict()
    for name in ("lm_head.weight", "model.vision_model.encoder.layers.0.self_attn.k_proj.weight"):
        assert torch.equal(before[name], after[name])
    assert apart(logits(plain, text_only=True), logits(model, text_only=True)) <= ROUNDED
    here, there = open_checkpoint(base).processor, open_checkpoint(merged).processor
    assert (there.image_settings, there.default_system, there.eos_id) == (
        here.image_settings,
        here.default_system,
        here.eos_id,
    )
    processor = AutoProcessor.from_pretrained(merged)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    )
    assert text.endswith("User: Hi\n\n")


def test_a_base_in_shards_is_merged_file_by_file(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    create_model(open_checkpoint(hybrid_checkpoint)).save_pretrained(shards, max_shard_size="200KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (shards / name).write_bytes((hybrid_checkpoint / name).read_bytes())
    assert len(list(shards.glob("*.safetensors"))) > 2
    model = train_randomly(shards, PARTS)
    save_trained(model, tmp_path / "adapter", open_checkpoint(shards))
    merged = merge(shards, tmp_path)
    assert {path.name for path in merged.glob("*.safetensors")} == {
        path.name for path in shards.glob("*.safetensors")
    }
    plain = AutoModelForImageTextToText.from_pretrained(merged).eval()
    assert apart(logits(plain), logits(model)) <= ROUNDED
