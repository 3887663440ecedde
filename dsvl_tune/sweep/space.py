"""The values that a sweep tries: `KEY=A,B,C`, or `KEY=LOW..HIGH` with `:log` for a log scale."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dsvl_tune.core.errors import UserError
from dsvl_tune.recipe.yaml_file import load_yaml
from dsvl_tune.report.sweep_record import value_text

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None
"""A value that Optuna stores; lists and mappings are their JSON."""
Values = dict[str, Value]
"""Value by dotted key: what a trial changes in the recipe."""

NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")
FIXED_KEYS = (
    "run_dir",
    "run_name",
    "monitor",
    "keep_best",
    "resume",
    "checkpoint_every_steps",
    "time_limit_s",
    "config",
)
"""Keys that say how runs are kept and compared: the sweep sets them, or all trials share them."""
EXAMPLES = "model.lr=1e-4..1e-3:log or model.parts.language_model.rank=8,16,32"


@dataclass(frozen=True)
class Choices:
    """Some values of a key.

    Attributes:
        key: Dotted key of the recipe.
        values: At least two, all different.
    """

    key: str
    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values to check before the sweep begins: all."""
        return self.values

    @property
    def setting(self) -> Any:
        """What YAML holds."""
        return list(self.values)

    @property
    def distribution(self) -> BaseDistribution:
        """The values, for Optuna."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def __str__(self) -> str:
        """Describe the values for people."""
        return ", ".join(value_text(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """The numbers from one to another.

    Attributes:
        key: Dotted key of the recipe.
        low: Least number.
        high: Greatest number.
        log: Whether equal factors are equally likely, rather than equal distances.
    """

    key: str
    low: int | float
    high: int | float
    log: bool

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values to check before the sweep begins: the least and the greatest."""
        return (self.low, self.high)

    @property
    def setting(self) -> Any:
        """What YAML holds."""
        return f"{self.low!r}..{self.high!r}{':log' if self.log else ''}"

    @property
    def distribution(self) -> BaseDistribution:
        """The numbers, for Optuna; whole ones if both ends are."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        """Describe the numbers for people."""
        whole = "whole numbers " if isinstance(self.low, int) else ""
        scale = ", log scale" if self.log else ""
        return f"{whole}{value_text(self.low)} to {value_text(self.high)}{scale}"


Dimension = Choices | Range
Space = tuple[Dimension, ...]


def read_space(given: Sequence[str]) -> Space:
    """Read what to try from the command line.

    Args:
        given: `KEY=VALUES`, or YAML files that hold the same by key.

    Raises:
        UserError: Nothing is given, a key is given twice, or values that are none.
    """
    space: list[Dimension] = []
    for text in given:
        key, equals, values = text.partition("=")
        if equals:
            space.append(parse_dimension(key.strip().removeprefix("--"), values.strip()))
        elif Path(text).is_file():
            space += parse_space(load_yaml(Path(text)))
        else:
            raise UserError(f"--over {text}: no such file. Give KEY=VALUES, e.g. {EXAMPLES}.")
    if not space:
        raise UserError(f"--over: nothing to try. Give keys and their values, e.g. {EXAMPLES}.")
    keys = [dimension.key for dimension in space]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--over {key}: is given twice. Keep one of the two.")
    return tuple(space)


def parse_space(settings: Mapping[str, Any]) -> Space:
    """Read what to try from what YAML holds.

    Args:
        settings: A list of values, or `LOW..HIGH` with `:log` for a log scale, by dotted key.

    Raises:
        UserError: Values that are none.
    """
    return tuple(parse_dimension(str(key), values) for key, values in settings.items())


def parse_dimension(key: str, given: Any) -> Dimension:
    """Read the values of one key.

    Args:
        key: Dotted key of the recipe.
        given: A text as it is typed, or a list from YAML.

    Raises:
        UserError: They are no values, or the key is none that a sweep changes.
    """
    if key in FIXED_KEYS:
        raise UserError(f"--over {key}: all trials of a sweep share it. Set it as --{key}.")
    if isinstance(given, str) and (found := RANGE.fullmatch(given)):
        return _range(key, given, found)
    values = _listed(key, given) if isinstance(given, str) else given
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(
            f"--over {key}: {given!r}, expected several values or a range, e.g. {EXAMPLES}. Set a "
            f"single value as --{key} VALUE."
        )
    choices = tuple(_storable(value) for value in values)
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise UserError(f"--over {key}: {given!r}, a value is given twice. Keep one of the two.")
    return Choices(key, choices)


def grid_size(space: Space) -> int | None:
    """Count the combinations of listed values; None where a key has a range."""
    if any(isinstance(dimension, Range) for dimension in space):
        return None
    return math.prod(len(dimension.ends) for dimension in space)


def combinations(space: Space) -> Iterable[Values]:
    """Yield every combination of listed values and ends of ranges, the last key changing first."""
    keys = [dimension.key for dimension in space]
    for values in product(*(dimension.ends for dimension in space)):
        yield dict(zip(keys, values, strict=True))


def argument_text(value: Value) -> str:
    """Write a value exactly, as an argument of a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _range(key: str, given: str, found: re.Match[str]) -> Range:
    """Make a range of two numbers."""
    numbers = [_number(text) for text in found.groups()[:2]]
    low, high = numbers if all(isinstance(n, int) for n in numbers) else map(float, numbers)
    if not low < high:
        raise UserError(f"--over {key}: {given}, expected the lower number first, LOW..HIGH.")
    if found[3] and low <= 0:
        raise UserError(f"--over {key}: {given}, a log scale begins above 0.")
    return Range(key, low, high, bool(found[3]))


def _number(text: str) -> int | float:
    """Read a number; one without a point and an exponent is whole."""
    return int(text) if re.fullmatch(r"[+-]?[\d_]+", text) else float(text)


def _listed(key: str, text: str) -> Any:
    """Read values that are separated by commas; each is read as in YAML."""
    try:
        return yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise UserError(
            f"--over {key}: {text}, cannot be read. Give values with commas between them, or "
            f"LOW..HIGH; e.g. {EXAMPLES}."
        ) from error


def _storable(value: Any) -> Value:
    """Turn a value of YAML into one that Optuna stores."""
    if isinstance(value, str) and re.fullmatch(NUMBER, value):
        return _number(value)  # YAML 1.1 takes 1e-4, without a point, for text
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return json.dumps(value)
