"""Nested settings by dotted keys, as a command line and messages name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def by_dotted_key(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into values by dotted key; an empty mapping is a value.

    Args:
        settings: As YAML holds them.
        prefix: Of every key.
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= by_dotted_key(value, f"{key}.")
        else:
            flat[key] = value
    return flat
