"""The configuration of a Janus checkpoint in transformers' terms, from either layout.

Files of the original layout name their towers ("siglip_large_patch16_384", "VQ-16"). Where there
are tensors, sizes are read from their shapes; without, from the names.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from transformers import JanusConfig

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Shapes
from dsvl_tune.families.deepseek_vl.config import (
    EPS,
    ORIGINAL,
    SIGLIP_ONLY,
    check_projector,
    shape_of,
    siglip_config,
    text_config,
)
from dsvl_tune.families.janus.config_bounds import check_original_settings, check_settings
from dsvl_tune.families.janus.key_map import SIGLIP, SIGLIP_HF, VQ
from dsvl_tune.families.janus.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

MODEL_TYPE = "janus"
"""`model_type` in transformers' layout."""

FLOW_SECTIONS = ("vision_und_enc_config", "vision_gen_enc_config", "vision_gen_dec_config")
"""Sections of JanusFlow's config.json, whose `model_type` is Janus's."""

GENERATION_TYPES = ("janus_vqgan", "gen_vision", "gen_aligner", "gen_head")
"""`model_type` of the sections of image generation, by themselves."""

LANGUAGE = "language_model."
LANGUAGE_HF = ("model.language_model.", "lm_head.")
"""Prefixes of the language model's tensors in the original layout and in transformers'."""


Sizes = TypeVar("Sizes")


class VqSizes(NamedTuple):
    """Sizes of the VQ autoencoder, by their names in transformers' configuration."""

    base_channels: int
    channel_multiplier: tuple[int, ...]
    num_res_blocks: int
    latent_channels: int


VQ_SIZES = {"VQ-16": VqSizes(128, (1, 1, 2, 2, 4), 2, 256)}
"""Source: janus/models/vq_model.py, VQ_models and ModelArgs."""

SIGLIP_SIZES: dict[str, dict[str, Any]] = {
    "siglip_large_patch16_384": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 16,
    },
}
"""Source: janus/models/siglip_vit.py, SigLIP_MODEL_CONFIG: the tower of every published Janus."""


def is_original(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is of Janus in its original layout.

    DeepSeek-VL and JanusFlow have the same `model_type`.
    """
    return settings.get("model_type") == ORIGINAL and "gen_vision_config" in settings


def relative(settings: Mapping[str, Any]) -> str | None:
    """The name of a relative of Janus that a config.json is of; None for Janus and others.

    Sources of the keys: janus/janusflow/models/modeling_vlm.py and janus/models/modeling_vlm.py.
    """
    model_type = settings.get("model_type")
    if model_type == ORIGINAL and any(name in settings for name in FLOW_SECTIONS):
        return "JanusFlow (rectified flow)"
    alone = model_type in GENERATION_TYPES
    if alone or (is_original(settings) and "vision_config" not in settings):
        return "the image generation of Janus without its understanding"
    return None


def check_understanding(names: Collection[str], prefixes: tuple[str, ...], place: str) -> None:
    """Refuse weight files that hold image generation alone.

    Args:
        names: of the tensors; nothing is said of none.
        prefixes: of the tensors of the vision tower and the language model.
        place: of the files, for the message.

    Raises:
        UserError: there are no tensors of either.
    """
    if names and not any(name.startswith(prefixes) for name in names):
        raise UserError(
            f"{place}: the weights are those of the image generation of Janus alone: none of the "
            f"tensors ({len(names)}) belongs to the vision tower or the language model. Give a "
            "complete Janus checkpoint."
        )


def read_config(checkpoint: Checkpoint) -> JanusConfig:
    """The configuration of a checkpoint.

    Raises:
        UserError: a tower is unknown or of other sizes than the tensors, a projector is of another
            type, transformers' class cannot hold the sizes, or a value is out of its bounds.
        KeyError: config.json lacks a key.
        TypeError: a key has a value of another type.
        ValueError: likewise.
    """
    settings, place = checkpoint.settings, str(checkpoint.folder)
    if checkpoint.layout == "transformers":
        check_settings(f"{place}/config.json", settings)
        check_understanding(checkpoint.headers, (SIGLIP_HF, *LANGUAGE_HF), place)
        return JanusConfig.from_dict(copy.deepcopy(dict(settings)))
    check_original_settings(f"{place}/config.json", settings)
    check_understanding(checkpoint.headers, (SIGLIP, LANGUAGE), place)
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
) -> JanusConfig:
    """The configuration of a checkpoint in the original layout.

    Args:
        settings: its config.json.
        shapes: of its tensors, by their original names; {} takes the sizes that go with the names.
        image_token_id: from its tokenizer.

    Raises:
        UserError: as `read_config`, and likewise KeyError, TypeError, ValueError.
    """
    return JanusConfig(
        text_config=text_config(settings["language_config"]),
        vision_config=vision_config(settings, shapes),
        vq_config=vq_config(settings, shapes),
        image_token_id=image_token_id,
        tie_word_embeddings=False,  # every published checkpoint has an lm_head of its own
    )


def vision_config(settings: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """SigLIP's section, with the aligner's, which transformers has there.

    Raises:
        UserError: an unknown tower or projector, or a tower that normalizes pixels itself.
    """
    tower, aligner = (settings[name]["params"] for name in ("vision_config", "aligner_config"))
    check_projector(aligner, SIGLIP_ONLY)
    if tower.get("pixel_mean") is not None:
        raise UserError(
            "config.json: vision_config has pixel_mean, so the tower would normalize pixels that "
            "are normalized already; no published Janus has it. Remove pixel_mean and pixel_std."
        )
    if shapes:
        sizes = siglip_config(tower, shapes, SIGLIP)
    else:
        sizes = published_sizes(tower["model_name"], SIGLIP_SIZES)
    width, image_size = sizes["hidden_size"], tower["image_size"]
    return {
        "hidden_size": width,
        "num_hidden_layers": sizes["num_hidden_layers"],
        "num_attention_heads": sizes["num_attention_heads"],
        "mlp_ratio": sizes["intermediate_size"] / width,
        "image_size": image_size,
        "patch_size": sizes["patch_size"],
        "num_image_tokens": (image_size // sizes["patch_size"]) ** 2,
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
        "projection_dim": aligner["n_embed"],
        "depth": aligner["depth"],
    }


def vq_config(settings: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The section of image generation: autoencoder, aligner and head.

    Raises:
        UserError: head and aligner have inner widths that differ, for which transformers has one
            key.
    """
    vision, aligner, head = (
        settings[f"gen_{name}_config"]["params"] for name in ("vision", "aligner", "head")
    )
    check_projector(aligner, SIGLIP_ONLY)
    if head["image_token_embed"] != aligner["n_embed"]:
        raise UserError(
            f"config.json: gen_head_config has image_token_embed {head['image_token_embed']}, "
            f"gen_aligner_config has n_embed {aligner['n_embed']}; expected one number, as in "
            "every published Janus: transformers' class has one width for both."
        )
    if shapes:
        sizes = vq_sizes(shapes)
    else:
        sizes = published_sizes(settings["gen_vision_config"]["cls"], VQ_SIZES)
    return {
        **sizes._asdict(),
        "embed_dim": vision["n_embed"],
        "num_embeddings": vision["image_token_size"],
        "projection_dim": aligner["n_embed"],
        "num_hidden_layers": aligner["depth"],
        "image_token_embed_dim": head["n_embed"],
    }


def published_sizes(name: str, known: Mapping[str, Sizes]) -> Sizes:
    """The sizes that go with a name.

    Raises:
        UserError: it has none.
    """
    if name not in known:
        raise UserError(
            f"config.json: the sizes of {name!r} are not known, and there are no weights to read "
            f"them from; known: {', '.join(known)}."
        )
    return known[name]


def vq_sizes(shapes: Shapes) -> VqSizes:
    """Sizes of the VQ autoencoder from its encoder's tensors.

    Raises:
        UserError: a tensor is missing or has another number of dimensions.
    """
    encoder = f"{VQ}encoder."
    blocks = f"{encoder}conv_blocks."
    base = shape_of(shapes, f"{encoder}conv_in.weight", 4)[0]
    channels = [
        shape_of(shapes, f"{blocks}{level}.res.0.conv1.weight", 4)[0]
        for level in range(count_modules(shapes, blocks))
    ]
    return VqSizes(
        base_channels=base,
        channel_multiplier=tuple(number // base for number in channels),
        num_res_blocks=count_modules(shapes, f"{blocks}0.res."),
        latent_channels=shape_of(shapes, f"{encoder}conv_out.weight", 4)[0],
    )


def count_modules(shapes: Shapes, prefix: str) -> int:
    """Numbered modules whose tensors have a prefix."""
    names = [name.removeprefix(prefix) for name in shapes if name.startswith(prefix)]
    return len({name.split(".")[0] for name in names})


def has_published_towers(settings: Mapping[str, Any]) -> bool:
    """Whether the original's code can build the towers, which it knows by name only.

    Args:
        settings: config.json in the original layout.
    """
    siglip = settings["vision_config"]["params"]["model_name"] in SIGLIP_SIZES
    return siglip and settings["gen_vision_config"]["cls"] in VQ_SIZES
