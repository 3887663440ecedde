"""Bounds of the sections that config.json files of several families have, and checks of them."""

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
)

TOKEN_ID = Bounds(0, 10_000_000)
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
"""Keys of a vision tower in an original layout; the last three where it has no published name."""

MEAN = Bounds(0, 1, whole=False)
STD = Bounds(1e-3, 10, whole=False)
"""Of pixels, channel by channel."""


def check_text(place: str, prefix: str, section: Mapping[str, Any]) -> None:
    """Raise on a value of a Llama's section that no model can have.

    Args:
        place: of the file, for the message.
        prefix: of the section's keys, such as "text_config.".
        section: keys and values of the file.

    Raises:
        UserError: naming file and key.
    """
    check_bounds(place, prefix, section, LLAMA)
    check_heads(place, prefix, section)
    check_rope(place, prefix, section)


def check_rope(place: str, prefix: str, section: Mapping[str, Any]) -> None:
    """Raise on a value of rotary positions that no model can have; arguments as `check_text`."""
    for name in ("rope_parameters", "rope_scaling"):
        if section.get(name) is not None:
            check_sections(f"{place}: {prefix[:-1]}", section, (name,))
            check_bounds(place, f"{prefix}{name}.", section[name], ROPE)


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


def check_model_type(place: str, name: str, section: Mapping[str, Any], expected: str) -> None:
    """Raise if a section is of another model; one that does not say is of the expected one."""
    if section.get("model_type", expected) != expected:
        raise UserError(
            f"{place}: {name}.model_type is {str(section['model_type'])[:60]!r}, expected "
            f"{expected!r}."
        )


def check_heads(place: str, prefix: str, section: Mapping[str, Any]) -> None:
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
