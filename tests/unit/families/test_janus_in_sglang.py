"""Janus in the original layout against what SGLang's loader reads, which was not run itself.

Names, rules and files are facts read in sgl-project/sglang: models/deepseek_janus_pro.py (commit
013902a) and configs/janus_pro.py (commit 0e6ed14) of python/sglang/srt.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from janus_golden import CHECKPOINT
from transformers import JanusConfig

from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.janus.files.original_settings import config_json
from dsvl_tune.models.checkpoint.weights import Weights

SKIPPED = ("gen", "projector", "rotary_emb.inv_freq~", "rotary_emb.cos_cached")
"""In names that the loader passes over; every other one must be a parameter."""

FUSED = {
    ".q_proj": ".qkv_proj",
    ".k_proj": ".qkv_proj",
    ".v_proj": ".qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
TOWER = "vision_model.vision_tower."
BLOCK = ("norm1", "norm2", "attn.qkv_proj", "attn.proj", "mlp.fc1", "mlp.fc2")
POOLING = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")
LAYER = {
    "input_layernorm": 1,
    "post_attention_layernorm": 1,
    "self_attn.qkv_proj": 3,
    "self_attn.o_proj": 1,
    "mlp.gate_up_proj": 2,
    "mlp.down_proj": 1,
}
"""Module of a layer -> tensors of a checkpoint that it is filled from."""

SETTINGS = {
    "processor_config.json": ("image_tag", "num_image_tokens", "sft_format", "add_special_token"),
    "preprocessor_config.json": (
        *("image_size", "min_size", "image_mean", "image_std"),
        *("rescale_factor", "do_normalize"),
    ),
    "tokenizer.json": ("model",),
    "tokenizer_config.json": ("tokenizer_class",),
}
"""Files next to config.json, and keys that decide what its processor does."""


def parameters(config: JanusConfig) -> tuple[dict[str, int], set[str]]:
    """What the model there is filled from: name -> tensors; and names that it never reads."""
    modules = {f"aligner.layers.{number}": 1 for number in (0, 2)}
    modules |= {f"{TOWER}{name}": 1 for name in ("patch_embed.proj", "norm")}
    for number in range(config.vision_config.num_hidden_layers):
        modules |= {f"{TOWER}blocks.{number}.{name}": 1 for name in BLOCK}
    read = {
        f"{name}.{kind}": count for name, count in modules.items() for kind in ("weight", "bias")
    }
    read[f"{TOWER}pos_embed"] = 1
    language = "language_model.model."
    for number in range(config.text_config.num_hidden_layers):
        read |= {f"{language}layers.{number}.{name}.weight": n for name, n in LAYER.items()}
    for name in (f"{language}embed_tokens", f"{language}norm", "language_model.lm_head"):
        read[f"{name}.weight"] = 1
    unread = {f"{TOWER}attn_pool.{n}.{kind}" for n in POOLING for kind in ("weight", "bias")}
    return read, unread | {f"{TOWER}attn_pool.latent"}


def place_of(name: str) -> str:
    """The parameter that the loader puts a tensor into."""
    name = name.replace("self_attn.out_proj", "self_attn.proj")
    if "vision_model.vision_tower" in name:
        name = name.replace("attn.qkv", "attn.qkv_proj")
    part = next((part for part in FUSED if part in name), None)
    return name if part is None else name.replace(part, FUSED[part])


@pytest.mark.parametrize("was_original", [True, False])
def test_every_tensor_has_a_place_and_every_parameter_is_filled(
    tmp_path: Path, was_original: bool
) -> None:
    here, export = tmp_path / "transformers", tmp_path / "original"
    for folder in (here, export):
        folder.mkdir()
    merge_into(Weights(open_checkpoint(CHECKPOINT)), {}, here, "transformers", torch.float32)
    if not was_original:
        shutil.rmtree(here / "original")
    merge_into(Weights(open_checkpoint(here)), {}, export, "original", torch.float32)
    written = open_checkpoint(export)
    read, unread = parameters(written.config)
    names = [name for name in written.headers if not any(part in name for part in SKIPPED)]
    filled = Counter(map(place_of, names))
    assert filled.keys() - unread == read.keys()
    assert {name: filled[name] for name in read} == read
    for file, keys in SETTINGS.items():
        settings = json.loads((export / file).read_text(encoding="utf-8"))
        assert set(keys) <= settings.keys(), file


def test_published_parts_have_the_names_that_it_knows() -> None:
    """It has a table of each, and refuses another name: towers of other sizes do not load."""
    settings = config_json(JanusConfig(), "bfloat16")
    assert settings["model_type"] == "multi_modality"
    tower, projector = settings["vision_config"], settings["aligner_config"]
    assert tower["cls"] == "CLIPVisionTower" and projector["cls"] == "MlpProjector"
    assert tower["params"]["model_name"] == "siglip_large_patch16_384"
    assert projector["params"].keys() >= {"projector_type", "input_dim", "n_embed", "depth"}
    assert settings["gen_vision_config"]["cls"] == "VQ-16"
    assert settings["gen_vision_config"]["params"].keys() >= {"image_token_size", "n_embed"}
    assert settings["gen_head_config"]["cls"] == "vision_head"
