"""The configuration of a DeepSeek-VL checkpoint in transformers' terms, from either layout.

Published files of the original layout (`model_type` multi_modality) name their vision towers
("siglip_large_patch16_384", "sam_b_downsample") instead of giving sizes, so sizes are read from the
shapes of the tensors, which are in the headers of the files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    PretrainedConfig,
)

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Shapes
from dsvl_tune.families.deepseek_vl.config_bounds import check_original_settings, check_settings
from dsvl_tune.families.deepseek_vl.key_map import SAM, SIGLIP
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

SIGLIP_ONLY = "deepseek_vl"
HYBRID = "deepseek_vl_hybrid"
ORIGINAL = "multi_modality"
"""`model_type` of the original layout, which Janus shares."""

CONFIGS = {
    SIGLIP_ONLY: DeepseekVLConfig,
    HYBRID: DeepseekVLHybridConfig,
}
MODELS = {
    SIGLIP_ONLY: DeepseekVLForConditionalGeneration,
    HYBRID: DeepseekVLHybridForConditionalGeneration,
}


class Tower(NamedTuple):
    """Sizes of a vision tower that the original knows by name."""

    width: int
    layers: int
    heads: int


SIGLIP_TOWERS = {
    "siglip_large_patch16_384": Tower(1024, 24, 16),
    "siglip_so400m_patch14_384": Tower(1152, 27, 16),
}
"""Source: deepseek_vl/models/siglip_vit.py, SigLIP_MODEL_CONFIG. Needed because no shape tells the
number of SigLIP's heads."""

SAM_TOWERS = {"sam_b_downsample": Tower(768, 12, 12)}
"""Source: deepseek_vl/models/sam.py, SAM_MODEL_CONFIG."""

EPS = 1e-6
"""Of layer norms (deepseek_vl/models/siglip_vit.py, sam.py) and RMS norms (Llama's default)."""

PROJECTORS = {HYBRID: "low_high_hybrid_split_mlp_gelu", SIGLIP_ONLY: "mlp_gelu"}
PROJECTOR_DEPTH = 2


def is_hybrid(config: PretrainedConfig) -> bool:
    """Whether a configuration has the SAM tower next to SigLIP."""
    return bool(config.model_type == HYBRID)


def read_config(checkpoint: Checkpoint) -> DeepseekVLConfig | DeepseekVLHybridConfig:
    """The configuration of a checkpoint.

    Raises:
        UserError: a vision tower is unknown or of other sizes than the tensors, the projector is
            of another type, or a value is out of its bounds.
        KeyError: config.json lacks a key.
        TypeError: a key has a value of another type.
        ValueError: likewise.
    """
    settings, place = checkpoint.settings, f"{checkpoint.folder}/config.json"
    if checkpoint.layout == "transformers":
        check_settings(place, settings, hybrid=settings["model_type"] == HYBRID)
        return CONFIGS[settings["model_type"]].from_dict(copy.deepcopy(dict(settings)))
    check_original_settings(place, settings)
    shapes = {name: stored.shape for name, stored in checkpoint.headers.items()}
    image_token_id = 0
    if checkpoint.complete:
        image_token_id = checkpoint.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    try:
        return original_config(settings, shapes, image_token_id)
    except UserError as error:
        raise UserError(f"{checkpoint.folder}: {error}") from None


def original_config(
    settings: Mapping[str, Any], shapes: Shapes, image_token_id: int
) -> DeepseekVLConfig | DeepseekVLHybridConfig:
    """The configuration of a checkpoint in the original layout.

    Args:
        settings: its config.json.
        shapes: of its tensors, by their original names.
        image_token_id: from its tokenizer.

    Raises:
        UserError: as `read_config`, and likewise KeyError, TypeError, ValueError.
    """
    vision = settings["vision_config"]["params"]
    model_type = HYBRID if "high_res_cfg" in vision else SIGLIP_ONLY
    check_projector(settings["aligner_config"]["params"], model_type)
    siglip = vision["low_res_cfg"] if model_type == HYBRID else vision
    sections: dict[str, Any] = {
        "text_config": text_config(settings["language_config"]),
        "vision_config": siglip_config(siglip, shapes, SIGLIP[model_type]),
        "image_token_id": image_token_id,
        "tie_word_embeddings": False,  # every published checkpoint has an lm_head of its own
    }
    if model_type == HYBRID:
        sections["high_res_vision_config"] = sam_config(vision["high_res_cfg"], shapes)
    return CONFIGS[model_type](**sections)


def text_config(language: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's section in transformers' terms.

    Args:
        language: `language_config` of the original layout; what it leaves out is Llama's default.
    """
    text = {"rms_norm_eps": EPS, **language, "model_type": "llama"}
    # How a model is loaded is our own choice, not the file's.
    for name in ("torch_dtype", "architectures", "_name_or_path", "_attn_implementation"):
        text.pop(name, None)
    return text


def check_projector(params: dict[str, Any], model_type: str) -> None:
    """Refuse a projector other than the one that transformers' class has.

    Raises:
        UserError: it is of another type or depth.
    """
    expected = PROJECTORS[model_type]
    # The original takes a depth that is not given as 1: deepseek_vl/models/projector.py.
    depth = params.get("depth", 1)
    if (params["projector_type"], depth) != (expected, PROJECTOR_DEPTH):
        raise UserError(
            f"config.json: the projector is {params['projector_type']!r} of depth {depth}, "
            f"expected {expected!r} of depth {PROJECTOR_DEPTH}, which all published checkpoints "
            "have."
        )


def siglip_config(tower: dict[str, Any], shapes: Shapes, prefix: str) -> dict[str, Any]:
    """SigLIP's sizes from its tensors; exact GELU, no pooling head in use.

    Args:
        tower: its section of config.json.
        shapes: of the checkpoint's tensors.
        prefix: of the tower's tensors.

    Raises:
        UserError: an unknown tower, or tensors of other sizes.
    """
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
    """SAM's sizes from its tensors.

    A layer is global where its relative positions span the whole grid.

    Args:
        tower: its section of config.json.
        shapes: of the checkpoint's tensors.

    Raises:
        UserError: tensors of other sizes than the tower's.
    """
    _, grid, _, width = shape_of(shapes, f"{SAM}pos_embed", 4)
    layers = count_blocks(shapes, SAM)
    spans = [shape_of(shapes, f"{SAM}blocks.{layer}.attn.rel_pos_h", 2) for layer in range(layers)]
    mlp = shape_of(shapes, f"{SAM}blocks.0.mlp.lin1.weight", 2)[0]
    known_heads(tower, SAM_TOWERS, width, layers)
    global_layers = [layer for layer, (rows, _) in enumerate(spans) if rows == 2 * grid - 1]
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
        "global_attn_indexes": global_layers,
        "layer_norm_eps": EPS,
    }


def known_heads(
    tower: dict[str, Any], known: dict[str, Tower], width: int, layers: int
) -> int | None:
    """Heads of a vision tower by its name or its own keys; None for an unknown name.

    Args:
        tower: its section of config.json.
        known: sizes of the towers with a name.
        width: of the tensors.
        layers: of the tensors.

    Raises:
        UserError: the tensors are not of the size that goes with the name or the keys.
    """
    stated = {key: tower[key] for key in Tower._fields if key in tower}
    if tower["model_name"] in known:
        stated = known[tower["model_name"]]._asdict() | stated
    for key, value in {"width": width, "layers": layers}.items():
        if stated.get(key, value) != value:
            raise UserError(
                f"config.json: vision tower {tower['model_name']!r} has {key} {stated[key]}, the "
                f"tensors have {value}. Config and weights are of different checkpoints."
            )
    return stated.get("heads")


def shape_of(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from.

    Raises:
        UserError: the tensor is missing or has another number of dimensions.
    """
    if name not in shapes:
        raise UserError(f"tensor {name} is missing, but config.json says that there is one.")
    shape = shapes[name]
    if len(shape) != dimensions or 0 in shape:
        raise UserError(
            f"tensor {name}: shape {list(shape)}, expected {dimensions} dimensions, none of them 0."
        )
    return shape


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """Transformer layers of a vision tower."""
    blocks = f"{prefix}blocks."
    names = [name.removeprefix(blocks) for name in shapes if name.startswith(blocks)]
    return len({name.split(".")[0] for name in names})


def has_published_towers(settings: Mapping[str, Any]) -> bool:
    """Whether the original's code can build the vision towers, which it knows by name only.

    Args:
        settings: config.json in the original layout.
    """
    vision = settings["vision_config"]["params"]
    towers = [vision]
    if "high_res_cfg" in vision:
        towers = [vision["high_res_cfg"], vision["low_res_cfg"]]
    known = {**SIGLIP_TOWERS, **SAM_TOWERS}
    return all(tower["model_name"] in known for tower in towers)
