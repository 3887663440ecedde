"""Which values the keys of DeepSeek-VL's config.json and preprocessor_config.json may have."""

from __future__ import annotations

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
from dsvl_tune.families.section_bounds import (
    LLAMA,
    MEAN,
    ORIGINAL_TOWER,
    SIGLIP,
    STD,
    TOKEN_ID,
    check_equal,
    check_heads,
    check_model_type,
    check_rope,
    check_text,
)

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
FIXED_TOWER = {"select_layer": -1, "select_feature": "same"}
"""What the original lets a vision tower give, and transformers' class has fixed."""

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
    check_bounds(place, "", settings, {"image_token_id": TOKEN_ID})
    for name in names:
        expected, bounds = SECTIONS[name]
        section = settings[name]
        check_model_type(place, name, section, expected)
        check_bounds(place, f"{name}.", section, bounds)
        check_heads(place, f"{name}.", section)
    check_rope(place, "text_config.", settings["text_config"])
    if hybrid:
        _check_sam(place, settings["high_res_vision_config"])


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
    check_text(place, "language_config.", text)
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
