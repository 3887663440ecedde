"""Tensor names of DeepSeek-VL2 in both layouts, there and back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights

GOLDEN = Path(__file__).parents[2] / "golden" / "deepseek_vl2"
RULES = json.loads((GOLDEN / "name_map_rules.json").read_text())["deepseek_vl_v2"]
TENSORS = {"tiny": (128, 79), "small": (131, 82), "base": (133, 84)}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize("size", list(TENSORS))
def test_names_are_those_of_the_rules(size: str) -> None:
    weights = Weights(open_checkpoint(GOLDEN / size / "checkpoint"))
    originals = tensors_of(GOLDEN / size / "checkpoint")
    ours = {name: group for group in weights.groups.values() for name in group.original}
    for name in originals:
        matching = [rule for rule in RULES if re.fullmatch(rule["original_regex"], name)]
        assert len(matching) == 1, name
        (rule,) = matching
        match = re.fullmatch(rule["original_regex"], name)
        assert match is not None
        wanted = [match.expand(target) for target in rule["transformers"]]
        if rule["kind"] == "drop":
            assert name in weights.unused and name not in ours
        else:
            assert list(ours[name].transformers) == wanted
    assert (weights.count(), len(weights.shapes)) == TENSORS[size]


def check_template(here: Path, back: Path) -> None:
    """Servers that load the original layout get the prompt that training used."""
    name = "chat_template.jinja"
    assert (back / name).read_text(encoding="utf-8") == (here / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("size", list(TENSORS))
def test_there_and_back_is_equal_byte_for_byte(size: str, tmp_path: Path) -> None:
    source = GOLDEN / size / "checkpoint"
    here, back = tmp_path / "transformers", tmp_path / "original"
    for folder in (here, back):
        folder.mkdir()
    merge_into(Weights(open_checkpoint(source)), {}, here, "transformers", None)
    merge_into(Weights(open_checkpoint(here)), {}, back, "original", None)
    before, after = tensors_of(source), tensors_of(back)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    for path in source.glob("*.json"):
        if "index" not in path.name:
            assert path.read_bytes() == (back / path.name).read_bytes(), path.name
    check_template(here, back)
    index = json.loads((back / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == before.keys()


@pytest.mark.parametrize("size", list(TENSORS))
def test_a_converted_checkpoint_is_the_same_model(size: str, tmp_path: Path) -> None:
    """Also without the original's own settings, which are then written from the configuration."""
    import shutil

    here, back = tmp_path / "transformers", tmp_path / "original"
    for folder in (here, back):
        folder.mkdir()
    base = open_checkpoint(GOLDEN / size / "checkpoint")
    merge_into(Weights(base), {}, here, "transformers", None)
    shutil.rmtree(here / "original")
    merge_into(Weights(open_checkpoint(here)), {}, back, "original", None)
    check_template(here, back)
    ids = torch.tensor([[5, 9, 17, 30]])
    wanted = create_model(base)(input_ids=ids).logits
    for folder in (here, back):
        written = open_checkpoint(folder)
        assert written.processor.image_settings == base.processor.image_settings
        assert written.tokenizer.get_vocab() == base.tokenizer.get_vocab()
        assert written.special_ids == base.special_ids
        assert torch.equal(create_model(written)(input_ids=ids).logits, wanted)


def test_experts_are_stacked_gate_before_up() -> None:
    folder = GOLDEN / "tiny" / "checkpoint"
    weights, originals = Weights(open_checkpoint(folder)), tensors_of(folder)
    fused = weights.read("model.language_model.layers.1.mlp.experts.gate_up_proj")
    down = weights.read("model.language_model.layers.1.mlp.experts.down_proj")
    prefix = "language.model.layers.1.mlp.experts.5."
    assert torch.equal(fused[5, :24], originals[f"{prefix}gate_proj.weight"])
    assert torch.equal(fused[5, 24:], originals[f"{prefix}up_proj.weight"])
    assert torch.equal(down[5], originals[f"{prefix}down_proj.weight"])
