"""Bounds of the numbers in a checkpoint's JSON files, so that none is taken that means nothing.

transformers takes most values as they are: a norm's epsilon of NaN, a rotary base of 0 and an image
size of a million all give a model, whose answers are nonsense or which is never done being built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError


class Bounds(NamedTuple):
    """Which numbers a key may have.

    Attributes:
        low: the smallest.
        high: the largest.
        whole: whether it must be an integer.
        nullable: whether null stands for a default.
    """

    low: float
    high: float
    whole: bool = True
    nullable: bool = False


COUNT = Bounds(1, 10_000)
"""Layers, heads."""
WIDTH = Bounds(1, 1_000_000)
SIDE = Bounds(1, 16_384)
"""Of an image or a patch, in px."""
EPSILON = Bounds(1e-30, 0.1, whole=False)
"""Of a norm."""
SHARE = Bounds(0, 1, whole=False)


def check_sections(place: str, settings: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise unless each of these keys is an object; without one, transformers takes its defaults.

    Args:
        place: of the file, for the message.
        settings: its content, or a part of it.
        names: the keys.

    Raises:
        UserError: a section is missing, null or something else.
    """
    for name in names:
        if not isinstance(settings.get(name), Mapping):
            raise UserError(
                f"{place}: {name} is {_shown(settings.get(name))}, expected an object. Copy the "
                "file again."
            )


def check_bounds(
    place: str, prefix: str, section: Mapping[str, Any], bounds: Mapping[str, Bounds]
) -> None:
    """Raise if a key that is there has a value out of its bounds.

    Args:
        place: of the file, for the message.
        prefix: of the section's keys, such as "text_config.".
        section: keys and values of the file; keys without bounds are not looked at.
        bounds: by key.

    Raises:
        UserError: naming file, key, value and bounds.
    """
    for key, (low, high, whole, nullable) in bounds.items():
        if key not in section or (nullable and section[key] is None):
            continue
        value = section[key]
        is_number = isinstance(value, int if whole else (int, float)) and not isinstance(
            value, bool
        )
        if not is_number or not low <= value <= high:
            kind = "an integer" if whole else "a number"
            raise UserError(
                f"{place}: {prefix}{key} is {_shown(value)}, expected {kind} from {low:g} to "
                f"{high:g}. Copy the file again."
            )


def check_triple(place: str, key: str, value: Any, bounds: Bounds) -> None:
    """Raise unless a value is a number, or three of them, within bounds: one for each channel.

    Args:
        place: of the file, for the message.
        key: of the value.
        value: as the file has it.
        bounds: of each number.

    Raises:
        UserError: naming file, key, value and bounds.
    """
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise UserError(f"{place}: {key} has {len(values)} values, expected one for each channel.")
    for number, one in enumerate(values):
        check_bounds(place, f"{key}.", {str(number): one}, {str(number): bounds})


def _shown(value: Any) -> str:
    """A value for a message, on a short line."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
