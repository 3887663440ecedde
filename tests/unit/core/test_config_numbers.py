"""A checkpoint with a number that no model can have is refused by its key, in either layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.core.checkpoint.config_numbers import check_numbers
from dsvl_tune.core.errors import UserError
from dsvl_tune.families import open_checkpoint, open_sizes

GOLDEN = Path(__file__).parents[2] / "golden"
NAN = float("nan")


def edit(path: Path, keys: str, value: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    section = content
    *parents, last = keys.split(".")
    for key in parents:
        section = section[key]
    section[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("text_config.rms_norm_eps", NAN),
        ("text_config.rms_norm_eps", 0),
        ("text_config.rope_parameters", {"rope_type": "default", "rope_theta": 0}),
        ("text_config.max_position_embeddings", 0),
        ("vision_config.layer_norm_eps", -1e-6),
        ("high_res_vision_config.layer_norm_eps", float("inf")),
        ("text_config.attention_dropout", NAN),
    ],
)
def test_a_config_of_transformers_layout(
    hybrid_checkpoint: Path, tmp_path: Path, keys: str, value: Any
) -> None:
    copy = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "copy"))
    edit(copy / "config.json", keys, value)
    for open_it in (open_checkpoint, open_sizes):
        with pytest.raises(UserError, match=rf"config.json: {keys}.* is .*; expected"):
            open_it(copy)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("language_config.rms_norm_eps", NAN),
        ("language_config.max_position_embeddings", 0),
        ("vision_config.params.high_res_cfg.pixel_std", [0.27, 0.0, 0.26]),
    ],
)
def test_a_config_of_the_original_layout(tmp_path: Path, keys: str, value: Any) -> None:
    copy = Path(shutil.copytree(GOLDEN / "hybrid" / "checkpoint", tmp_path / "copy"))
    edit(copy / "config.json", keys, value)
    with pytest.raises(UserError, match=f"config.json: {keys}"):
        open_checkpoint(copy)


@pytest.mark.parametrize("key", ["image_std", "high_res_image_std"])
def test_pixels_are_not_divided_by_zero(hybrid_checkpoint: Path, tmp_path: Path, key: str) -> None:
    copy = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "copy"))
    edit(copy / "preprocessor_config.json", key, [0.5, 0, 0.5])
    with pytest.raises(UserError, match=rf"preprocessor_config.json: {key}.1 is 0"):
        _ = open_checkpoint(copy).processor


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*config.json")), ids=str)
def test_published_settings_pass(path: Path) -> None:
    check_numbers(str(path), json.loads(path.read_text(encoding="utf-8")))
