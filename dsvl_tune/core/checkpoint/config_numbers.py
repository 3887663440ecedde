"""Numbers in the JSON files of a checkpoint that no model can have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dsvl_tune.core.errors import UserError

POSITIVE_ENDINGS = ("_eps", "_epsilon", "_std")
"""Endings of keys whose values divide something: epsilons of norms, deviations of pixels."""
POSITIVE_KEYS = frozenset(
    {
        "rope_theta",
        "max_position_embeddings",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "image_size",
        "patch_size",
        "rescale_factor",
    }
)


def check_numbers(place: str, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that could only give answers that are no numbers, or none at all.

    Args:
        place: of the JSON file, for the message.
        settings: its content, in either layout.

    Raises:
        UserError: a number is not finite, or not above 0 where it must be; the key is named.
    """
    for path, value in _numbers(settings):
        names = [name for name in path.split(".") if not name.isdigit()]
        key = names[-1] if names else ""
        if not math.isfinite(value):
            raise UserError(f"{place}: {path} is {value}; expected a finite number. Copy it again.")
        if value <= 0 and (key in POSITIVE_KEYS or key.endswith(POSITIVE_ENDINGS)):
            raise UserError(
                f"{place}: {path} is {value}; expected a number above 0. Copy the file again."
            )


def _numbers(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested objects and lists, with the path of its key."""
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        yield path, content
        return
    entries: Any = ()
    if isinstance(content, Mapping):
        entries = content.items()
    elif isinstance(content, list):
        entries = enumerate(content)
    for key, value in entries:
        yield from _numbers(value, f"{path}.{key}" if path else str(key))
