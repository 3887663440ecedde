"""Which values the keys of Janus's config.json may have, in either layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.number_bounds import (
    COUNT,
    SHARE,
    WIDTH,
    Bounds,
    check_bounds,
    check_sections,
)
from dsvl_tune.families.section_bounds import (
    ORIGINAL_TOWER,
    SIGLIP,
    TOKEN_ID,
    check_heads,
    check_model_type,
    check_text,
)

VISION: dict[str, Bounds] = {
    **SIGLIP,
    "mlp_ratio": Bounds(1e-3, 1_000, whole=False),
    "hidden_dropout_rate": SHARE,
    "projection_dropout": SHARE,
    "projection_dim": WIDTH,
    "depth": COUNT,
    "num_image_tokens": WIDTH,
}
VQ: dict[str, Bounds] = {
    "embed_dim": WIDTH,
    "num_embeddings": Bounds(1, 10_000_000),
    "latent_channels": WIDTH,
    "base_channels": WIDTH,
    "in_channels": Bounds(3, 3),
    "out_channels": Bounds(3, 3),
    "num_res_blocks": COUNT,
    "num_hidden_layers": COUNT,
    "projection_dim": WIDTH,
    "image_token_embed_dim": WIDTH,
    "dropout": SHARE,
}
SECTIONS = {
    "vision_config": ("janus_vision_model", VISION),
    "vq_config": ("janus_vqgan", VQ),
}
"""Section of a config.json in transformers' layout -> its `model_type`, and its bounds."""

ALIGNER = {"depth": COUNT, "input_dim": WIDTH, "n_embed": WIDTH}
ORIGINAL_PARAMS: dict[str, dict[str, Bounds]] = {
    "vision_config": ORIGINAL_TOWER,
    "aligner_config": ALIGNER,
    "gen_vision_config": {"image_token_size": Bounds(1, 10_000_000), "n_embed": WIDTH},
    "gen_aligner_config": ALIGNER,
    "gen_head_config": {
        "image_token_size": Bounds(1, 10_000_000),
        "image_token_embed": WIDTH,
        "n_embed": WIDTH,
    },
}
"""Section of a config.json in the original layout -> bounds of its `params`."""

MULTIPLIER = Bounds(1, 1_000)
"""Of the channels of a level of the VQ autoencoder."""


def check_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of config.json, in transformers' layout, that no model can have.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and key.
    """
    check_sections(place, settings, ("text_config", *SECTIONS))
    check_bounds(place, "", settings, {"image_token_id": TOKEN_ID})
    check_model_type(place, "text_config", settings["text_config"], "llama")
    check_text(place, "text_config.", settings["text_config"])
    for name, (expected, bounds) in SECTIONS.items():
        check_model_type(place, name, settings[name], expected)
        check_bounds(place, f"{name}.", settings[name], bounds)
    check_heads(place, "vision_config.", settings["vision_config"])
    multiplier = settings["vq_config"].get("channel_multiplier", [1])
    if not isinstance(multiplier, list) or not 0 < len(multiplier) <= 100:
        raise UserError(
            f"{place}: vq_config.channel_multiplier is {str(multiplier)[:60]!r}, expected a list "
            "of up to 100 integers. Copy the file again."
        )
    levels = {str(level): value for level, value in enumerate(multiplier)}
    check_bounds(place, "vq_config.channel_multiplier.", levels, dict.fromkeys(levels, MULTIPLIER))


def check_original_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of config.json, in the original layout, that no model can have.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and key.
    """
    check_sections(place, settings, ("language_config", *ORIGINAL_PARAMS))
    text = settings["language_config"]
    check_model_type(place, "language_config", text, "llama")
    check_text(place, "language_config.", text)
    for name, bounds in ORIGINAL_PARAMS.items():
        check_sections(f"{place}: {name}", settings[name], ("params",))
        check_bounds(place, f"{name}.params.", settings[name]["params"], bounds)
    for name, key in (("vision_config", "model_name"), ("gen_vision_config", "cls")):
        section = settings[name]["params"] if key == "model_name" else settings[name]
        if not isinstance(section.get(key), str):
            raise UserError(f"{place}: {name} has no text under {key}. Copy the file again.")
