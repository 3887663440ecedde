"""Which values the keys of DeepSeek-VL's config.json and preprocessor_config.json may have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.number_bounds import (
    COUNT,
    EPSILON,
    SHARE,
    SIDE,
    WIDTH,
    Bounds,
    check_bounds,
    check_sections,
    check_triple,
)

LLAMA: dict[str, Bounds] = {
    "vocab_size": Bounds(2, 10_000_000),
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": COUNT,
    "num_attention_heads": COUNT,
    "num_key_value_heads": COUNT._replace(nullable=True),
    "head_dim": WIDTH._replace(nullable=True),
    "max_position_embeddings": Bounds(1, 100_000_000),
    "rms_norm_eps": EPSILON,
    "rope_theta": Bounds(1, 1e12, whole=False),
    "attention_dropout": SHARE,
}
SIGLIP: dict[str, Bounds] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": COUNT,
    "num_attention_heads": COUNT,
    "num_channels": Bounds(3, 3),
    "image_size": SIDE,
    "patch_size": SIDE,
    "layer_norm_eps": EPSILON,
    "attention_dropout": SHARE,
}
SAM: dict[str, Bounds] = {
    "hidden_size": WIDTH,
    "mlp_dim": WIDTH,
    "output_channels": WIDTH,
    "num_hidden_layers": COUNT,
    "num_attention_heads": COUNT,
    "num_channels": Bounds(3, 3),
    "image_size": SIDE,
    "patch_size": SIDE,
    "window_size": Bounds(0, 16_384),
    "layer_norm_eps": EPSILON,
    "attention_dropout": SHARE,
}
ROPE: dict[str, Bounds] = {
    "rope_theta": Bounds(1, 1e12, whole=False),
    **dict.fromkeys(
        (
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
        Bounds(1e-6, 1e12, whole=False),
    ),
}
ORIGINAL_TOWER: dict[str, Bounds] = {
    "image_size": SIDE,
    "width": WIDTH,
    "layers": COUNT,
    "heads": COUNT,
}
"""Keys of a vision tower in the original layout; the last three where it has no published name."""

FIXED_TOWER = {"select_layer": -1, "select_feature": "same"}
"""What the original lets a vision tower give, and transformers' class has fixed."""

MEAN = Bounds(0, 1, whole=False)
STD = Bounds(1e-3, 10, whole=False)
SECTIONS = {
    "text_config": ("llama", LLAMA),
    "vision_config": ("siglip_vision_model", SIGLIP),
    "high_res_vision_config": ("sam_vision_model", SAM),
}
"""Section of a config.json in transformers' layout -> its `model_type`, and its bounds."""


def check_settings(place: str, settings: Mapping[str, Any], hybrid: bool) -> None:
    """Raise on a value of config.json, in transformers' layout, that no model can have.

    Args:
        place: of the file, for the message.
        settings: its content.
        hybrid: whether the model has SAM.

    Raises:
        UserError: naming file and key.
    """
    names = tuple(SECTIONS)[: 3 if hybrid else 2]
    check_sections(place, settings, names)
    check_bounds(place, "", settings, {"image_token_id": Bounds(0, 10_000_000)})
    for name in names:
        expected, bounds = SECTIONS[name]
        section = settings[name]
        if section.get("model_type", expected) != expected:
            raise UserError(
                f"{place}: {name}.model_type is {section['model_type']!r}, expected {expected!r}."
            )
        check_bounds(place, f"{name}.", section, bounds)
        _check_heads(place, f"{name}.", section)
    text = settings["text_config"]
    for name in ("rope_parameters", "rope_scaling"):
        if text.get(name) is not None:
            check_sections(place, text, (name,))
            check_bounds(place, f"text_config.{name}.", text[name], ROPE)
    if hybrid:
        _check_sam(place, settings["high_res_vision_config"])


def check_equal(
    place: str, prefix: str, section: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    """Raise if a key is missing or has another value than the only one that is computed.

    Args:
        place: of the file, for the message.
        prefix: of the section's keys, such as "text_config.".
        section: keys and values of the file.
        expected: by key.

    Raises:
        UserError: naming file, key and value.
    """
    for key, value in expected.items():
        found = section.get(key)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise UserError(
                f"{place}: {prefix}{key} is {json.dumps(found)[:60]}, expected {json.dumps(value)}."
            )


def _check_heads(place: str, prefix: str, section: Mapping[str, Any]) -> None:
    """Raise unless the width is a multiple of the heads, and those of the key-value heads."""
    heads = section.get("num_attention_heads")
    width, shared = section.get("hidden_size"), section.get("num_key_value_heads")
    if heads and width and width % heads and not section.get("head_dim"):
        raise UserError(
            f"{place}: {prefix}hidden_size {width} is no multiple of num_attention_heads {heads}."
        )
    if heads and shared and heads % shared:
        raise UserError(
            f"{place}: {prefix}num_attention_heads {heads} is no multiple of num_key_value_heads "
            f"{shared}."
        )


def _check_sam(place: str, section: Mapping[str, Any]) -> None:
    """Raise unless SAM's patches fill its image, and its global layers exist."""
    prefix = "high_res_vision_config."
    size, patch = section.get("image_size"), section.get("patch_size")
    if size and patch and size % patch:
        raise UserError(f"{place}: {prefix}image_size {size} is no multiple of patch_size {patch}.")
    layers = section.get("num_hidden_layers", 12)  # SamVisionConfig's default
    indexes = section.get("global_attn_indexes", [])
    known = isinstance(indexes, (list, tuple)) and all(
        isinstance(index, int) and 0 <= index < layers for index in indexes
    )
    if not known:
        raise UserError(
            f"{place}: {prefix}global_attn_indexes is {str(indexes)[:60]}, expected numbers of "
            f"layers, from 0 to {layers - 1}."
        )


def check_original_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of config.json, in the original layout, that no model can have.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and key.
    """
    check_sections(place, settings, ("language_config", "vision_config", "aligner_config"))
    check_sections(f"{place}: vision_config", settings["vision_config"], ("params",))
    check_sections(f"{place}: aligner_config", settings["aligner_config"], ("params",))
    text = settings["language_config"]
    check_equal(place, "language_config.", {"model_type": "llama", **text}, {"model_type": "llama"})
    check_bounds(place, "language_config.", text, LLAMA)
    _check_heads(place, "language_config.", text)
    if text.get("rope_scaling") is not None:
        check_sections(f"{place}: language_config", text, ("rope_scaling",))
        check_bounds(place, "language_config.rope_scaling.", text["rope_scaling"], ROPE)
    vision = settings["vision_config"]["params"]
    prefix = "vision_config.params."
    towers = {prefix: vision}
    if "high_res_cfg" in vision:
        check_sections(f"{place}: {prefix[:-1]}", vision, ("high_res_cfg", "low_res_cfg"))
        towers = {f"{prefix}{name}.": vision[name] for name in ("high_res_cfg", "low_res_cfg")}
    for name, tower in towers.items():
        check_equal(place, name, {**FIXED_TOWER, **tower}, FIXED_TOWER)
        if not isinstance(tower.get("model_name"), str):
            raise UserError(f"{place}: {name}model_name is missing or no text.")
        check_bounds(place, name, tower, ORIGINAL_TOWER)
        for key, bounds in (("pixel_mean", MEAN), ("pixel_std", STD)):
            if key in tower:
                check_triple(place, f"{name}{key}", tower[key], bounds)


def check_image_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of the image settings, in either layout, that no picture can be made with.

    Args:
        place: of the file, for the message.
        settings: of the image processor.

    Raises:
        UserError: naming file and key.
    """
    for prefix in ("", "high_res_"):
        size = f"{prefix}size"
        if isinstance(settings.get(size), Mapping):
            sides = {"height": SIDE, "width": SIDE}
            check_bounds(place, f"{size}.", settings[size], sides)
            height = settings[size].get("height")
            check_equal(place, f"{size}.", {"width": height, **settings[size]}, {"width": height})
        for key, bounds in ((f"{prefix}image_mean", MEAN), (f"{prefix}image_std", STD)):
            if key in settings:
                check_triple(place, key, settings[key], bounds)
    check_bounds(place, "", settings, {"image_size": SIDE, "min_size": SIDE})
    scale = Bounds(1 / 256, 1 / 255 + 1e-9, whole=False)  # to 0..1: the only one that is computed
    check_bounds(place, "", settings, {"rescale_factor": scale})
    if "size" in settings:  # transformers' layout: in the original, the towers normalize
        steps = dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_pad"), True)
        check_equal(place, "", {**steps, **settings}, steps)
    if "background_color" in settings:
        check_triple(place, "background_color", settings["background_color"], Bounds(0, 255))
