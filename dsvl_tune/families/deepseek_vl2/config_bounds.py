"""Which values the keys of DeepSeek-VL2's JSON files may have, in either layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.number_bounds import (
    COUNT,
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
    check_heads,
    check_model_type,
    check_rope,
)

HEAD_WIDTH = Bounds(0, 1_000_000)
"""0 in published files without latent attention."""

TEXT: dict[str, Bounds] = {
    **{key: bounds for key, bounds in LLAMA.items() if key != "head_dim"},
    "moe_intermediate_size": WIDTH,
    "n_shared_experts": Bounds(0, 10_000, nullable=True),
    "n_routed_experts": COUNT._replace(nullable=True),
    "num_experts_per_tok": COUNT._replace(nullable=True),
    "n_group": COUNT._replace(nullable=True),
    "topk_group": COUNT._replace(nullable=True),
    "first_k_dense_replace": Bounds(0, 10_000),
    "kv_lora_rank": WIDTH._replace(nullable=True),
    "q_lora_rank": WIDTH._replace(nullable=True),
    "qk_rope_head_dim": HEAD_WIDTH,
    "qk_nope_head_dim": HEAD_WIDTH,
    "v_head_dim": HEAD_WIDTH,
    "routed_scaling_factor": Bounds(1e-6, 1e6, whole=False),
    "aux_loss_alpha": Bounds(0, 1e3, whole=False),
}
PROJECTOR: dict[str, Bounds] = {
    "input_dim": WIDTH,
    "n_embed": WIDTH,
    "downsample_ratio": Bounds(1, 64),
}
TOWER: dict[str, Bounds] = {
    **ORIGINAL_TOWER,
    "patch_size": SIDE,
    "mlp_ratio": Bounds(1e-3, 1_000, whole=False),
}
MOST_CANDIDATES = 10_000
CANDIDATE = Bounds(1, 1_000_000)
"""Side of a picture that is cut into tiles, in px."""


def check_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of config.json, in transformers' layout, that no model can have.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and key.
    """
    check_sections(place, settings, ("text_config", "vision_config"))
    top = {"image_token_id": TOKEN_ID, "downsample_ratio": PROJECTOR["downsample_ratio"]}
    check_bounds(place, "", settings, top)
    check_candidates(place, settings)
    text, vision = settings["text_config"], settings["vision_config"]
    check_model_type(place, "text_config", text, "deepseek_vl2_text")
    check_decoder(place, "text_config.", text)
    check_model_type(place, "vision_config", vision, "siglip_vision_model")
    check_bounds(place, "vision_config.", vision, SIGLIP)
    check_heads(place, "vision_config.", vision)


def check_original_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of config.json, in the original layout, that no model can have.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and key.
    """
    check_sections(place, settings, ("language_config", "vision_config", "projector_config"))
    check_candidates(place, settings)
    check_decoder(place, "language_config.", settings["language_config"])
    vision = settings["vision_config"]
    check_bounds(place, "vision_config.", vision, TOWER)
    if vision.get("width", 0) % vision.get("heads", 1):
        raise UserError(
            f"{place}: vision_config.width {vision['width']} is no multiple of heads "
            f"{vision['heads']}."
        )
    check_bounds(place, "projector_config.", settings["projector_config"], PROJECTOR)


def check_decoder(place: str, prefix: str, section: Mapping[str, Any]) -> None:
    """Raise on a value of the decoder's section that no model can have.

    Args:
        place: of the file, for the message.
        prefix: of the section's keys.
        section: keys and values of the file.

    Raises:
        UserError: naming file and key.
    """
    check_bounds(place, prefix, section, TEXT)
    check_rope(place, prefix, section)
    experts, chosen = section.get("n_routed_experts"), section.get("num_experts_per_tok")
    if experts and chosen and chosen > experts:
        raise UserError(
            f"{place}: {prefix}num_experts_per_tok {chosen} is more than n_routed_experts "
            f"{experts}. Copy the file again."
        )
    groups, kept = section.get("n_group") or 1, section.get("topk_group") or 1
    if kept > groups or (experts and experts % groups):
        raise UserError(
            f"{place}: {prefix}n_group {groups} with topk_group {kept} and n_routed_experts "
            f"{experts}: experts are in groups of equal size, of which some are chosen. Copy the "
            "file again."
        )
    if section.get("use_mla", True):
        wide = {name: WIDTH for name in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")}
        check_bounds(place, prefix, section, wide)
    else:
        check_heads(place, prefix, section)


def check_candidates(place: str, settings: Mapping[str, Any]) -> None:
    """Raise unless candidate_resolutions, where there are any, are pairs of sides in px.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and value.
    """
    candidates = settings.get("candidate_resolutions", [[1, 1]])
    is_list = isinstance(candidates, list) and 0 < len(candidates) <= MOST_CANDIDATES
    if not is_list or not all(isinstance(pair, list) and len(pair) == 2 for pair in candidates):
        raise UserError(
            f"{place}: candidate_resolutions is {str(candidates)[:60]!r}, expected up to "
            f"{MOST_CANDIDATES} pairs of width and height. Copy the file again."
        )
    for number, (width, height) in enumerate(candidates):
        sides = {"0": width, "1": height}
        prefix = f"candidate_resolutions.{number}."
        check_bounds(place, prefix, sides, dict.fromkeys(sides, CANDIDATE))


def check_image_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Raise on a value of processor_config.json that no picture can be made with.

    Args:
        place: of the file, for the message.
        settings: its content.

    Raises:
        UserError: naming file and key.
    """
    check_candidates(place, settings)
    check_bounds(
        place,
        "",
        settings,
        {"patch_size": SIDE, "downsample_ratio": PROJECTOR["downsample_ratio"]},
    )
    for key, bounds in (("image_mean", MEAN), ("image_std", STD)):
        if key in settings:
            check_triple(place, key, settings[key], bounds)
