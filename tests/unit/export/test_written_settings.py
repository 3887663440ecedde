"""The settings of an export are those that releases of transformers before 5 read as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dsvl_tune.core.checkpoint.weight_headers import read_headers
from dsvl_tune.core.errors import UserError
from dsvl_tune.export.convert_checkpoint import convert_checkpoint
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.files.original_settings import original_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden"


def export(source: Path, target: Path) -> Path:
    convert_checkpoint(str(source), target, "transformers", overwrite=False, sha256=None)
    return target


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_names_and_tokens(family: str, tmp_path: Path) -> None:
    """A list of special tokens ends those releases; flat names leave their SigLIP at random."""
    written = export(GOLDEN / family / "checkpoint", tmp_path / "written")
    siglip = [name for name in read_headers(written) if name.startswith("model.vision_model.")]
    assert siglip
    assert all(name.startswith("model.vision_model.vision_model.") for name in siglip)
    tokenizer = read(written / "tokenizer_config.json")
    assert tokenizer["extra_special_tokens"] == {"image_token": "<image_placeholder>"}
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]


def test_other_special_tokens_stay_special(tmp_path: Path) -> None:
    """Next to the image token, in a list that every release reads."""
    source = export(GOLDEN / "siglip" / "checkpoint", tmp_path / "source")
    settings = read(source / "tokenizer_config.json")
    settings["extra_special_tokens"] = ["<image_placeholder>", "<pad-0>"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name in ("SHA256SUMS", "original"):
        path = source / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    written = export(source, tmp_path / "written")
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, written))
    assert len(before) == len(after) and "<pad-0>" in after.all_special_tokens
    assert after.image_token == "<image_placeholder>"


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 50000.0},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 20000.0},
    ],
)
def test_rotary_positions(
    hybrid_checkpoint: Path, tmp_path: Path, parameters: dict[str, Any]
) -> None:
    """Those releases have 10,000 and no scaling where a key is missing."""
    source = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "source"))
    config = read(source / "config.json")
    config["text_config"]["rope_parameters"] = parameters
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    written = export(source, tmp_path / "written")
    text = read(written / "config.json")["text_config"]
    assert text["rope_theta"] == parameters["rope_theta"]
    scaled = parameters["rope_type"] != "default"
    assert text.get("rope_scaling") == (parameters if scaled else None)
    assert open_checkpoint(written).config.text_config.rope_parameters == parameters


def test_a_tokenizer_that_never_was_original(tmp_path: Path) -> None:
    """As tokenizers 0.15 reads it: merges are strings, and `ignore_merges` is unknown there."""
    source = export(GOLDEN / "hybrid" / "checkpoint", tmp_path / "source")
    shutil.rmtree(source / "original")
    (source / "SHA256SUMS").unlink()
    AutoTokenizer.from_pretrained(source).save_pretrained(source)
    assert isinstance(read(source / "tokenizer.json")["model"]["merges"][0], list)
    convert_checkpoint(str(source), tmp_path / "written", "original", overwrite=False, sha256=None)
    written, golden = (
        read(folder / "tokenizer.json")
        for folder in (tmp_path / "written", GOLDEN / "hybrid" / "checkpoint")
    )
    assert written["model"] == golden["model"]
    assert all(isinstance(merge, str) for merge in written["model"]["merges"])
    assert "ignore_merges" not in written["model"]


def test_a_tokenizer_of_deepseek_vl2_that_never_was_original(tmp_path: Path) -> None:
    """Its class too is one that the original's code knows, and the ids are the base's."""
    golden = GOLDEN / "deepseek_vl2" / "tiny" / "checkpoint"
    source = export(golden, tmp_path / "source")
    shutil.rmtree(source / "original")
    (source / "SHA256SUMS").unlink()
    convert_checkpoint(str(source), tmp_path / "written", "original", overwrite=False, sha256=None)
    written = read(tmp_path / "written" / "tokenizer.json")
    assert written["model"] == read(golden / "tokenizer.json")["model"]
    settings, before = (
        read(folder / "tokenizer_config.json") for folder in (tmp_path / "written", golden)
    )
    assert {key: settings[key] for key in before} == before
    assert settings["processor_class"] == "DeepseekVLV2Processor"
    one, two = (open_checkpoint(folder).tokenizer for folder in (tmp_path / "written", golden))
    text = "<|User|>: <image>\n<|ref|>a badge<|/ref|>\n\n<|Assistant|>:"
    assert one(text)["input_ids"] == two(text)["input_ids"]


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [("ignore_merges", True, "ignore_merges true"), ("merges", [["a b", "c"]], "the merge")],
)
def test_a_tokenizer_that_the_original_cannot_hold(
    tmp_path: Path, key: str, value: Any, fault: str
) -> None:
    path = tmp_path / "tokenizer.json"
    content = read(GOLDEN / "hybrid" / "checkpoint" / "tokenizer.json")
    content["model"][key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=f"the original layout cannot hold .*{fault.split()[0]}"):
        original_tokenizer(path)
