"""Checkpoints in the original layout (`model_type` multi_modality): their configuration in transformers' terms.

The published files name their towers ("siglip_large_patch16_384", "sam_b_downsample") instead of giving sizes, so sizes
are read from the tensors' shapes, which are in the files' headers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import DeepseekVLConfig, DeepseekVLHybridConfig

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.deepseek_vl.key_map import SAM, SIGLIP

Shapes = dict[str, tuple[int, ...]]


class Tower(NamedTuple):
    """Sizes of a tower that the original knows by name."""

    width: int
    layers: int
    heads: int


# deepseek_vl/models/siglip_vit.py, SigLIP_MODEL_CONFIG: SigLIP's number of heads leaves no trace in its shapes.
SIGLIP_TOWERS = {
    "siglip_large_patch16_384": Tower(1024, 24, 16),
    "siglip_so400m_patch14_384": Tower(1152, 27, 16),
}
SAM_TOWERS = {"sam_b_downsample": Tower(768, 12, 12)}  # deepseek_vl/models/sam.py, SAM_MODEL_CONFIG
EPS = 1e-6  # layer norms and RMS norms: deepseek_vl/models/siglip_vit.py, sam.py; Llama's default
PROJECTORS = {"deepseek_vl_hybrid": "low_high_hybrid_split_mlp_gelu", "deepseek_vl": "mlp_gelu"}
PROJECTOR_DEPTH = 2


def original_config(
    original: dict[str, Any], shapes: Shapes, image_token_id: int
) -> DeepseekVLConfig | DeepseekVLHybridConfig:
    """The configuration of a checkpoint in the original layout, for transformers' classes.

    Args:
        original: its config.json. shapes: of its tensors. image_token_id: from its tokenizer.

    Raises:
        UserError: a tower that is not known or not of the tensors' sizes, or a projector of another kind.
        KeyError, TypeError, ValueError: config.json lacks a key or has one of another type.
    """
    vision = original["vision_config"]["params"]
    family = "deepseek_vl_hybrid" if "high_res_cfg" in vision else "deepseek_vl"
    check_projector(original["aligner_config"]["params"], family)
    low = vision["low_res_cfg"] if "high_res_cfg" in vision else vision
    parts: dict[str, Any] = {
        "text_config": {"rms_norm_eps": EPS, **original["language_config"], "model_type": "llama"},
        "vision_config": siglip_config(low, shapes, SIGLIP[family]),
        "image_token_id": image_token_id,
        "tie_word_embeddings": False,  # every published checkpoint has an lm_head of its own
    }
    for name in ("torch_dtype", "architectures", "_name_or_path"):
        parts["text_config"].pop(name, None)
    if family == "deepseek_vl":
        return DeepseekVLConfig(**parts)
    return DeepseekVLHybridConfig(
        **parts, high_res_vision_config=sam_config(vision["high_res_cfg"], shapes)
    )


def check_projector(params: dict[str, Any], family: str) -> None:
    """Refuse a projector that transformers' class of the family is not."""
    expected = PROJECTORS[family], PROJECTOR_DEPTH
    # a depth that is not given is 1 in the original (deepseek_vl/models/projector.py, MlpProjector)
    if (params["projector_type"], params.get("depth", 1)) != expected:
        raise UserError(
            f"config.json: the projector is {params['projector_type']!r} of depth {params.get('depth', 1)}, expected "
            f"{expected[0]!r} of depth {expected[1]}: no published DeepSeek-VL has another."
        )


def siglip_config(tower: dict[str, Any], shapes: Shapes, prefix: str) -> dict[str, Any]:
    """SigLIP's sizes from its tensors; exact GELU, no pooling head in use."""
    width = shape_of(shapes, f"{prefix}pos_embed", 3)[-1]
    layers = count_blocks(shapes, prefix)
    heads = known_heads(tower, SIGLIP_TOWERS, width, layers)
    if heads is None:
        names = ", ".join(SIGLIP_TOWERS)
        raise UserError(
            f"config.json: unknown vision tower {tower['model_name']!r}; known: {names}."
        )
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": shape_of(shapes, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": tower["image_size"],
        "patch_size": shape_of(shapes, f"{prefix}patch_embed.proj.weight", 4)[-1],
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
        "vision_use_head": False,
    }


def sam_config(tower: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """SAM's sizes from its tensors. A layer is global where its relative positions span the whole grid."""
    _, grid, _, width = shape_of(shapes, f"{SAM}pos_embed", 4)
    layers = count_blocks(shapes, SAM)
    spans = [shape_of(shapes, f"{SAM}blocks.{layer}.attn.rel_pos_h", 2) for layer in range(layers)]
    mlp = shape_of(shapes, f"{SAM}blocks.0.mlp.lin1.weight", 2)[0]
    known_heads(tower, SAM_TOWERS, width, layers)
    return {
        "model_type": "sam_vision_model",
        "hidden_size": width,
        "mlp_dim": mlp,
        "mlp_ratio": mlp / width,
        "output_channels": shape_of(shapes, f"{SAM}neck.0.weight", 4)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": width // spans[0][1],
        "image_size": tower["image_size"],
        "patch_size": tower["image_size"] // grid,
        "window_size": (min(rows for rows, _ in spans) + 1) // 2,
        "global_attn_indexes": [
            layer for layer, (rows, _) in enumerate(spans) if rows == 2 * grid - 1
        ],
        "layer_norm_eps": EPS,
    }


def known_heads(
    tower: dict[str, Any], known: dict[str, Tower], width: int, layers: int
) -> int | None:
    """Heads of a tower by its name or its own keys; None for a name that is not known.

    Raises:
        UserError: the tensors are not of the size that goes with the name or the keys.
    """
    named = known.get(tower["model_name"])
    says = {
        **(named._asdict() if named else {}),
        **{key: tower[key] for key in Tower._fields if key in tower},
    }
    found = {"width": width, "layers": layers}
    for key, value in found.items():
        if says.get(key, value) != value:
            raise UserError(
                f"config.json: vision tower {tower['model_name']!r} has {key} {says[key]}, the tensors have {value}. "
                "Config and weights are of different checkpoints."
            )
    return says.get("heads")


def shape_of(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from.

    Raises:
        UserError: the tensor is missing or has another number of dimensions.
    """
    if name not in shapes:
        raise UserError(
            f"tensor {name} is missing, which config.json says that the checkpoint has."
        )
    if len(shapes[name]) != dimensions or 0 in shapes[name]:
        raise UserError(
            f"tensor {name}: shape {list(shapes[name])}, expected {dimensions} dimensions, none of them 0."
        )
    return shapes[name]


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """Transformer layers of a tower."""
    blocks = f"{prefix}blocks."
    return len(
        {name.removeprefix(blocks).split(".")[0] for name in shapes if name.startswith(blocks)}
    )
