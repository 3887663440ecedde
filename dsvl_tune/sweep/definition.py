"""What a sweep is: the recipe, the values to try, how many trials; written to its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.dotted_keys import by_dotted_key
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import write_text
from dsvl_tune.recipe.yaml_file import load_yaml
from dsvl_tune.sweep.folder import DEFINITION, is_sweep
from dsvl_tune.sweep.space import Space, grid_size, parse_space
from dsvl_tune.training.run.folder import MAY_DIFFER


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        folder: Of the sweep, which holds the run folders of its trials.
        space: Keys and the values to try.
        trials: Number of trials; None tries every combination of listed values.
        prune: Whether to stop trials that are worse than the median of the others.
        monitor: Logged name that trials are compared by.
        higher_is_better: Direction of the monitor.
        settings: Full settings of the recipe, without what trials change.
    """

    folder: Path
    space: Space
    trials: int | None
    prune: bool
    monitor: str
    higher_is_better: bool
    settings: Mapping[str, Any]

    @property
    def is_grid(self) -> bool:
        """Whether every combination of listed values is tried."""
        size = grid_size(self.space)
        return self.trials is None or (size is not None and self.trials >= size)

    @property
    def num_trials(self) -> int:
        """Number of trials.

        Raises:
            UserError: A key has a range, and no number of trials is given.
        """
        size = grid_size(self.space)
        if self.is_grid and size is not None:
            return size
        if self.trials is None:
            raise UserError(
                "--trials: a range has no end of values. Give the number of trials, e.g. "
                "--trials 12, or list the values of every key."
            )
        return self.trials


def write_definition(sweep: Sweep) -> None:
    """Write `sweep.yaml`."""
    content = {
        "space": {dimension.key: dimension.setting for dimension in sweep.space},
        "trials": sweep.trials,
        "prune": sweep.prune,
        "monitor": sweep.monitor,
        "higher_is_better": sweep.higher_is_better,
        "settings": dict(sweep.settings),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(sweep.folder / DEFINITION, text)


def read_definition(folder: Path) -> Sweep:
    """Read `sweep.yaml`.

    Args:
        folder: Of a sweep.

    Raises:
        UserError: It is no sweep, or the file is damaged.
    """
    if not is_sweep(folder):
        raise UserError(f"{folder}: no {DEFINITION}. Give the folder of a sweep.")
    content = load_yaml(folder / DEFINITION)
    try:
        return Sweep(
            folder,
            parse_space(content["space"]),
            content["trials"],
            content["prune"],
            content["monitor"],
            content["higher_is_better"],
            content["settings"],
        )
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / DEFINITION}: is damaged.") from None


def check_same(sweep: Sweep, existing: Sweep) -> None:
    """Raise unless a sweep is the one in its folder, perhaps with another number of trials.

    Args:
        sweep: That is asked for.
        existing: That the folder holds.

    Raises:
        UserError: The recipe or the values to try differ.
    """
    differing = [
        key
        for key, (one, other) in _pairs(_facts(sweep), _facts(existing)).items()
        if one != other and key not in MAY_DIFFER
    ]
    if differing:
        raise UserError(
            f"{sweep.folder}: holds another sweep, which differs in {', '.join(differing[:5])}. "
            "Give this one a --run_name of its own."
        )


def _facts(sweep: Sweep) -> dict[str, Any]:
    """What makes a sweep the same one, by name."""
    tried = {f"--over {dimension.key}": dimension.setting for dimension in sweep.space}
    return {**by_dotted_key(sweep.settings), **tried, "--prune": sweep.prune}


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values of two mappings by key, in the order of the keys."""
    missing = object()
    keys = sorted(one.keys() | other.keys())
    return {key: (one.get(key, missing), other.get(key, missing)) for key in keys}
