"""Checkpoints in the original layout (`model_type` multi_modality): their configuration in transformers' terms.

The published files name their towers ("siglip_large_patch16_384", "sam_b_downsample") instead of giving sizes, so sizes
are read from the tensors' shapes, which are in the files' headers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import DeepseekVLConfig, DeepseekVLHybridConfig

from dsvl_tune.models.key_map import to_transformers
from dsvl_tune.schema import UserError

Shapes = dict[str, list[int]]

# The number of heads leaves no trace in SigLIP's shapes (deepseek_vl/models/siglip_vit.py, SigLIP_MODEL_CONFIG).
SIGLIP_HEADS = {"siglip_large_patch16_384": 16, "siglip_so400m_patch14_384": 16}
LAYER_NORM_EPS = 1e-6  # deepseek_vl/models/siglip_vit.py and sam.py


def read_shapes(files: dict[str, Path]) -> Shapes:
    """The shape of every tensor, without loading one."""
    shapes: Shapes = {}
    for path in set(files.values()):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (not a dict)
    return shapes


def read_converted(files: dict[str, Path]) -> dict[str, Tensor]:
    """Every tensor under its name in transformers' layout, in the dtype of the files.

    Raises:
        ValueError: a tensor that the key table does not know.
    """
    tensors: dict[str, Tensor] = {}
    for path in sorted(set(files.values())):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                tensors.update(to_transformers(name, file.get_tensor(name)))
    return tensors


def original_config(
    original: dict[str, Any], shapes: Shapes, image_token_id: int
) -> DeepseekVLConfig | DeepseekVLHybridConfig:
    """The configuration of a checkpoint in the original layout, for transformers' classes.

    Args:
        original: its config.json. shapes: of its tensors. image_token_id: from its tokenizer.

    Raises:
        UserError: a tower that is not known, or a projector of another kind.
    """
    vision = original["vision_config"]["params"]
    hybrid = "high_res_cfg" in vision
    prefix = "vision_model.vision_tower_low.vision_tower." if hybrid else "vision_model.vision_tower."
    projector = original["aligner_config"]["params"]["projector_type"]
    if projector != ("low_high_hybrid_split_mlp_gelu" if hybrid else "mlp_gelu"):
        raise UserError(f"config.json: projector_type {projector!r} is of no published DeepSeek-VL and not supported.")
    parts: dict[str, Any] = {
        "text_config": {**original["language_config"], "model_type": "llama", "rms_norm_eps": 1e-6},
        "vision_config": siglip_config(vision["low_res_cfg"] if hybrid else vision, shapes, prefix),
        "image_token_id": image_token_id,
        "tie_word_embeddings": False,  # every published checkpoint has an lm_head of its own
    }
    for name in ("torch_dtype", "architectures", "_name_or_path"):
        parts["text_config"].pop(name, None)
    if not hybrid:
        return DeepseekVLConfig(**parts)
    sam = sam_config(vision["high_res_cfg"], shapes, "vision_model.vision_tower_high.vision_tower.")
    return DeepseekVLHybridConfig(**parts, high_res_vision_config=sam)


def siglip_config(tower: dict[str, Any], shapes: Shapes, prefix: str) -> dict[str, Any]:
    """SigLIP's sizes from its tensors; exact GELU, no pooling head in use."""
    width = shapes[f"{prefix}pos_embed"][-1]
    heads = tower.get("heads") or SIGLIP_HEADS.get(tower["model_name"])
    if heads is None:
        raise UserError(f"config.json: unknown vision tower {tower['model_name']!r}; known: {', '.join(SIGLIP_HEADS)}.")
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_blocks(shapes, prefix),
        "num_attention_heads": heads,
        "image_size": tower["image_size"],
        "patch_size": shapes[f"{prefix}patch_embed.proj.weight"][-1],
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "vision_use_head": False,
    }


def sam_config(tower: dict[str, Any], shapes: Shapes, prefix: str) -> dict[str, Any]:
    """SAM's sizes from its tensors. A layer is global where its relative positions span the whole grid."""
    _, grid, _, width = shapes[f"{prefix}pos_embed"]
    spans = [shapes[f"{prefix}blocks.{layer}.attn.rel_pos_h"] for layer in range(count_blocks(shapes, prefix))]
    mlp = shapes[f"{prefix}blocks.0.mlp.lin1.weight"][0]
    return {
        "model_type": "sam_vision_model",
        "hidden_size": width,
        "mlp_dim": mlp,
        "mlp_ratio": mlp / width,
        "output_channels": shapes[f"{prefix}neck.0.weight"][0],
        "num_hidden_layers": len(spans),
        "num_attention_heads": width // spans[0][1],
        "image_size": tower["image_size"],
        "patch_size": tower["image_size"] // grid,
        "window_size": (min(rows for rows, _ in spans) + 1) // 2,
        "global_attn_indexes": [layer for layer, (rows, _) in enumerate(spans) if rows == 2 * grid - 1],
        "layer_norm_eps": LAYER_NORM_EPS,
    }


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """Transformer layers of a tower."""
    return len({name.removeprefix(f"{prefix}blocks.").split(".")[0] for name in shapes if f"{prefix}blocks." in name})
