"""The key table: every published tensor has one place in each layout, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeepseekVLConfig, DeepseekVLHybridConfig

from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.deepseek_vl.files.original_settings import config_json
from dsvl_tune.families.deepseek_vl.key_map import RULES
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, TowerPixels
from dsvl_tune.families.key_rules import RuleGroup, group_of_original, group_of_transformers
from dsvl_tune.models.checkpoint.weights import expected_shapes, original_shapes

GOLDEN = Path(__file__).parents[2] / "golden"
MODEL_TYPES = {"hybrid": "deepseek_vl_hybrid", "siglip": "deepseek_vl"}
HIGH, LOW, ONLY = (
    "vision_model.vision_tower" + tail
    for tail in ("_high.vision_tower.", "_low.vision_tower.", ".")
)
SAM, SIGLIP = "model.high_res_vision_model.vision_encoder.", "model.vision_model."

# One tensor of each type, read in the original's code and in transformers'. Those of "qkv" and
# "batch" change their shape.
PAIRS = {
    "deepseek_vl_hybrid": [
        (HIGH + "pos_embed", SAM + "pos_embed"),
        (HIGH + "patch_embed.proj.bias", SAM + "patch_embed.projection.bias"),
        (HIGH + "blocks.11.norm2.weight", SAM + "layers.11.layer_norm2.weight"),
        (HIGH + "blocks.3.attn.rel_pos_w", SAM + "layers.3.attn.rel_pos_w"),
        (HIGH + "blocks.3.attn.qkv.weight", SAM + "layers.3.attn.qkv.weight"),
        (HIGH + "blocks.3.attn.proj.bias", SAM + "layers.3.attn.proj.bias"),
        (HIGH + "blocks.3.mlp.lin2.bias", SAM + "layers.3.mlp.lin2.bias"),
        (HIGH + "neck.0.weight", SAM + "neck.conv1.weight"),
        (HIGH + "neck.1.bias", SAM + "neck.layer_norm1.bias"),
        (HIGH + "neck.2.weight", SAM + "neck.conv2.weight"),
        (HIGH + "neck.3.weight", SAM + "neck.layer_norm2.weight"),
        (HIGH + "neck_hd.0.weight", "model.high_res_vision_neck.conv1.weight"),
        (HIGH + "neck_hd.1.weight", "model.high_res_vision_neck.layer_norm1.weight"),
        (HIGH + "neck_hd.2.weight", "model.high_res_vision_neck.conv2.weight"),
        (HIGH + "neck_hd.3.bias", "model.high_res_vision_neck.layer_norm2.bias"),
        (HIGH + "downsamples.0.weight", "model.high_res_vision_proj.conv1.weight"),
        (HIGH + "downsamples.1.weight", "model.high_res_vision_proj.conv2.weight"),
        (HIGH + "hd_alpha_downsamples", "model.high_res_vision_alpha"),
        (LOW + "blocks.23.mlp.fc1.weight", SIGLIP + "encoder.layers.23.mlp.fc1.weight"),
        ("aligner.high_up_proj.bias", "model.aligner.high_res_vision_proj.bias"),
        ("aligner.low_up_proj.bias", "model.aligner.vision_proj.bias"),
        ("aligner.layers.1.weight", "model.aligner.proj.weight"),
    ],
    "deepseek_vl": [
        (ONLY + "pos_embed", SIGLIP + "embeddings.position_embedding.weight"),
        (ONLY + "patch_embed.proj.weight", SIGLIP + "embeddings.patch_embedding.weight"),
        (ONLY + "blocks.0.norm1.bias", SIGLIP + "encoder.layers.0.layer_norm1.bias"),
        (ONLY + "blocks.0.attn.proj.weight", SIGLIP + "encoder.layers.0.self_attn.out_proj.weight"),
        (ONLY + "norm.weight", SIGLIP + "post_layernorm.weight"),
        ("aligner.layers.0.weight", "model.aligner.linear1.weight"),
        ("aligner.layers.2.bias", "model.aligner.linear2.bias"),
        ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        (
            "language_model.model.layers.7.self_attn.q_proj.weight",
            "model.language_model.layers.7.self_attn.q_proj.weight",
        ),
        ("language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
    ],
}


@pytest.mark.parametrize("model_type", PAIRS)
def test_names_both_ways(model_type: str) -> None:
    rules = RULES[model_type]
    for original, transformers in PAIRS[model_type]:
        group = group_of_original(original, rules)
        assert group is not None, original
        assert (group.original, group.transformers) == ((original,), (transformers,))
        assert group_of_transformers(transformers, rules) == group


def test_the_fused_projection_is_query_key_value() -> None:
    rules = RULES["deepseek_vl_hybrid"]
    group = group_of_original(LOW + "blocks.2.attn.qkv.bias", rules)
    assert group is not None
    assert group.transformers == tuple(
        f"{SIGLIP}encoder.layers.2.self_attn.{letter}_proj.bias" for letter in "qkv"
    )
    fused = torch.arange(12.0).reshape(6, 2)
    parts = group.to_transformers([fused])
    assert [part.tolist() for part in parts] == [fused[i : i + 2].tolist() for i in (0, 2, 4)]
    assert torch.equal(group.to_original(parts)[0], fused)
    assert all(group_of_transformers(name, rules) == group for name in group.transformers)


def test_the_position_table_loses_and_gains_its_batch() -> None:
    group = RuleGroup(("pos_embed",), ("embedding",), "batch")
    table = torch.randn(1, 4, 3)
    (embedding,) = group.to_transformers([table])
    assert embedding.shape == (4, 3)
    assert torch.equal(group.to_original([embedding])[0], table)


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("vision_model.surprise", "deepseek_vl_hybrid"),
        (ONLY + "blocks.0.norm1.bias", "deepseek_vl_hybrid"),
        (LOW + "blocks.0.norm1.bias", "deepseek_vl"),
        (HIGH + "blocks.0.norm3.bias", "deepseek_vl_hybrid"),
        (HIGH + "blocks.x.norm1.bias", "deepseek_vl_hybrid"),
        ("aligner.layers.0.weight", "deepseek_vl_hybrid"),
        ("language_model.lm_head.bias", "deepseek_vl"),
    ],
)
def test_a_name_without_a_rule_has_no_group(name: str, model_type: str) -> None:
    assert group_of_original(name, RULES[model_type]) is None


@pytest.mark.parametrize("golden", MODEL_TYPES)
def test_every_golden_tensor_has_its_place(golden: str) -> None:
    """Names that the reference wrote: each has a group that leads back to it, or is unused."""
    rules = RULES[MODEL_TYPES[golden]]
    names = load_file(GOLDEN / golden / "checkpoint" / "model.safetensors")
    without = {name for name in names if group_of_original(name, rules) is None}
    assert len(without) == (17 if golden == "hybrid" else 13)
    for name in without:
        assert "attn_pool" in name or name.split(".")[1].endswith("_layer_norm")
    for name in set(names) - without:
        group = group_of_original(name, rules)
        assert group is not None
        assert all(group_of_transformers(part, rules) == group for part in group.transformers)


SIGLIP_L: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
    "vision_use_head": False,
}
SAM_B: dict[str, Any] = {"model_type": "sam_vision_model", "global_attn_indexes": [2, 5, 8, 11]}


def llama(width: int, mlp: int, layers: int) -> dict[str, Any]:
    sizes = {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "vocab_size": 102400,
    }
    return {"model_type": "llama", **sizes, "num_attention_heads": width // 128}


@pytest.mark.parametrize(
    ("text", "hybrid", "originals", "parameters"),
    [
        (llama(4096, 11008, 30), True, 775, 7_331_390_721),
        (llama(2048, 5632, 24), False, 529, 1_962_640_384),
        (llama(2048, 5632, 24), True, 721, 2_058_996_993),
    ],
    ids=["7b", "1.3b", "1.3b-hybrid"],
)
def test_the_published_sizes(
    text: dict[str, Any], hybrid: bool, originals: int, parameters: int
) -> None:
    """Tensors and parameters as in the published files; nothing is allocated."""
    parts = {
        "text_config": text,
        "vision_config": SIGLIP_L,
        "image_token_id": 100015,
        "tie_word_embeddings": False,
    }
    config = (
        DeepseekVLHybridConfig(**parts, high_res_vision_config=SAM_B)
        if hybrid
        else DeepseekVLConfig(**parts)
    )
    shapes = expected_shapes(config, DEEPSEEK_VL, Path())
    groups = {name: DEEPSEEK_VL.tensor_group(name, config) for name in shapes}
    there = original_shapes(shapes, groups)  # type: ignore[arg-type]
    unused = DEEPSEEK_VL.unused_tensors(config)
    assert len(there) + len(unused) == originals
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters
    assert sum(torch.Size(shape).numel() for shape in there.values()) == parameters
    assert sum(torch.Size(shape).numel() for shape in unused.values()) == (
        12_599_296 if hybrid else 12_595_200
    )

    half, clip = (
        TowerPixels(384, (0.5,) * 3, (0.5,) * 3),
        TowerPixels(1024, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
    )
    rule = (
        ImageSettings(1024, (122, 116, 104), half, clip, 576)
        if hybrid
        else ImageSettings(384, (127, 127, 127), half, None, 576)
    )
    vision = config_json(config, rule, "float16")["vision_config"]["params"]
    names = (
        [vision[key]["model_name"] for key in ("high_res_cfg", "low_res_cfg")]
        if hybrid
        else [vision["model_name"]]
    )
    assert names == [*(["sam_b_downsample"] if hybrid else []), "siglip_large_patch16_384"]
