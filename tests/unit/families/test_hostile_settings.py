"""Settings of Janus and DeepSeek-VL2 that no model can have: one message with key and bounds."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_config_mutations import VALUES, keys, mutate

from dsvl_tune.core.errors import UserError
from dsvl_tune.families import open_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
ORIGINALS = {
    "janus original": GOLDEN / "janus" / "checkpoint",
    "deepseek_vl2 original": GOLDEN / "deepseek_vl2" / "small" / "checkpoint",
}
NAMES = [*ORIGINALS, "janus transformers", "deepseek_vl2 transformers"]
HUGE = 2**40


@pytest.fixture
def folder(
    tmp_path: Path, janus_checkpoint: Path, deepseek_vl2_checkpoint: Path
) -> Callable[[str], Path]:
    """Copies a checkpoint by its name."""
    sources = ORIGINALS | {
        "janus transformers": janus_checkpoint,
        "deepseek_vl2 transformers": deepseek_vl2_checkpoint,
    }
    return lambda name: Path(shutil.copytree(sources[name], tmp_path / "checkpoint"))


def opened(folder: Path) -> str:
    """What is said when the configuration of a checkpoint is read; "" if nothing."""
    try:
        _ = open_checkpoint(folder).config
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_a_traceback(name: str, folder: Callable[[str], Path]) -> None:
    """Every key of config.json, missing or of another value."""
    path = folder(name) / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    refused, tried = set(), 0
    for key in keys(content):
        for kind, value in VALUES.items():
            changed = mutate(content, key, value)
            if changed == content:
                continue
            path.write_text(json.dumps(changed), encoding="utf-8")
            tried += 1
            if said := opened(path.parent):
                assert str(path.parent) in said and len(said) < 2_000, (key, kind, said)
                refused.add((key[-1], kind))
    assert tried > 150
    sizes = {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "image_size"}
    assert {(key, kind) for key in sizes for kind in ("nan", "zero", "negative", "huge")} <= refused


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("janus transformers", "text_config.rms_norm_eps", math.nan, "rms_norm_eps is nan"),
        (
            "janus transformers",
            "text_config.num_attention_heads",
            7,
            "num_attention_heads 7 is no multiple",
        ),
        ("janus transformers", "vision_config.image_size", 10**6, "image_size is 1000000.*16384"),
        (
            "janus transformers",
            "vision_config.mlp_ratio",
            -1,
            "mlp_ratio is -1.*from 0.001 to 1000",
        ),
        ("janus transformers", "vision_config.depth", 10**9, "vision_config.depth is 1000000000"),
        ("janus transformers", "vision_config", [], "vision_config is .*expected an object"),
        ("janus transformers", "vq_config.num_embeddings", HUGE, "vq_config.num_embeddings is"),
        ("janus transformers", "vq_config.channel_multiplier", [1, 0], "channel_multiplier.1 is 0"),
        ("janus transformers", "vq_config.channel_multiplier", 3, "expected a list"),
        ("janus transformers", "text_config.model_type", "gpt2", "expected 'llama'"),
        (
            "janus original",
            "gen_head_config.params.n_embed",
            HUGE,
            "gen_head_config.params.n_embed",
        ),
        (
            "janus original",
            "vision_config.params.image_size",
            10**6,
            "params.image_size is 1000000",
        ),
        ("janus original", "language_config.num_attention_heads", 0, "num_attention_heads is 0"),
        (
            "janus original",
            "gen_vision_config.cls",
            None,
            "gen_vision_config has no text under cls",
        ),
        (
            "deepseek_vl2 transformers",
            "text_config.moe_intermediate_size",
            0,
            "size is 0.*from 1 to",
        ),
        ("deepseek_vl2 transformers", "text_config.n_routed_experts", 10**9, "from 1 to 10000"),
        ("deepseek_vl2 transformers", "text_config.num_experts_per_tok", 9, "more than n_routed"),
        ("deepseek_vl2 transformers", "text_config.n_group", 3, "groups of equal size"),
        ("deepseek_vl2 transformers", "text_config.routed_scaling_factor", 0, "factor is 0"),
        ("deepseek_vl2 transformers", "text_config.v_head_dim", 0, "v_head_dim is 0"),
        ("deepseek_vl2 transformers", "text_config.rms_norm_eps", 1.0, "rms_norm_eps is 1.0"),
        ("deepseek_vl2 transformers", "vision_config.image_size", 10**6, "image_size is 1000000"),
        ("deepseek_vl2 transformers", "downsample_ratio", 0, "downsample_ratio is 0.*from 1 to 64"),
        ("deepseek_vl2 transformers", "candidate_resolutions", [[40]], "pairs of width and height"),
        (
            "deepseek_vl2 transformers",
            "candidate_resolutions",
            [[40, -40]],
            r"resolutions.0.1 is -40",
        ),
        ("deepseek_vl2 original", "language_config.kv_lora_rank", HUGE, "kv_lora_rank is"),
        ("deepseek_vl2 original", "vision_config.width", 7, "no multiple of heads"),
        ("deepseek_vl2 original", "projector_config.n_embed", 0, "projector_config.n_embed is 0"),
    ],
)
def test_what_is_said(
    name: str, key: str, value: Any, said: str, folder: Callable[[str], Path]
) -> None:
    path = folder(name) / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(mutate(content, tuple(key.split(".")), value)), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        _ = open_checkpoint(path.parent).config


@pytest.mark.parametrize(
    ("name", "file", "key", "value", "said"),
    [
        ("janus original", "preprocessor_config", "image_std", [0.5, 0, 0.5], "image_std.1 is 0"),
        ("janus original", "preprocessor_config", "image_size", HUGE, "image_size is"),
        ("janus original", "preprocessor_config", "image_mean", [2, 0, 0], "image_mean.0 is 2"),
        (
            "deepseek_vl2 transformers",
            "processor_config",
            "image_std",
            [0, 1, 1],
            "image_std.0 is 0",
        ),
        ("deepseek_vl2 transformers", "processor_config", "image_mean", [0.5], "has 1 values"),
        ("deepseek_vl2 transformers", "processor_config", "candidate_resolutions", [], "pairs of"),
        ("deepseek_vl2 original", "processor_config", "patch_size", 10**6, "patch_size is 1000000"),
    ],
)
def test_what_is_said_of_image_settings(
    name: str, file: str, key: str, value: Any, said: str, folder: Callable[[str], Path]
) -> None:
    path = folder(name) / f"{file}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, key: value}), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        _ = open_checkpoint(path.parent).processor
