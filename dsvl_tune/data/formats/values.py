"""Values of rows in messages: what they are, never the whole of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.core.terminal import shorten

SHOWN_CHARACTERS = 80
"""Of a text in a message."""
SHOWN_KEYS = 12
"""Of an object in a message."""


def shown(value: Any) -> str:
    """A value as messages show it: short, whatever it holds and however deeply it is nested."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return repr(shorten(value, SHOWN_CHARACTERS))
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of many digits"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return f"an object with the keys {key_names(value)}" if value else "an empty object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value):,}"
    return type(value).__name__


def key_names(mapping: Mapping[str, Any]) -> str:
    """The keys of a row, as messages list them."""
    names = [f"{shown(str(key)[:40])}{_missing(value)}" for key, value in mapping.items()]
    more = [f"{len(names) - SHOWN_KEYS:,} more"] if len(names) > SHOWN_KEYS else []
    return ", ".join(names[:SHOWN_KEYS] + more) or "none"


def _missing(value: Any) -> str:
    """How a key's value is missing; "" if it is not."""
    if value is None:
        return " (null)"
    return " (empty)" if isinstance(value, (str, list)) and not value else ""
