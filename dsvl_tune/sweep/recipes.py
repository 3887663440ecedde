"""The recipe of each trial: that of the sweep with other values, checked before the first trial."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import write_text
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.report.sweep_record import value_text
from dsvl_tune.sweep.definition import Sweep
from dsvl_tune.sweep.folder import trial_name
from dsvl_tune.sweep.space import (
    Space,
    Value,
    Values,
    argument_text,
    combinations,
)
from dsvl_tune.training.callbacks.monitor_check import check_monitor
from dsvl_tune.training.run.checks import set_up_fit
from dsvl_tune.training.run.trainer_keys import TRAINER_DEFAULTS, check_trainer

FOLDER = "recipes"
"""In the folder of a sweep: the recipe that each trial was started with."""
MOST_CHECKED = 256
"""Combinations that are all checked before the first trial; of more, each key by itself."""


@dataclass(frozen=True)
class TrialRecipes:
    """Makes the recipe of a trial.

    Attributes:
        recipe: Of the sweep.
        arguments: The command line that it was parsed from.
    """

    recipe: Recipe
    arguments: list[str]

    def with_values(self, values: Mapping[str, Value], **options: Any) -> Recipe:
        """Parse the recipe again, with other values.

        Args:
            values: Value by dotted key.
            **options: Keys of a run, e.g. its name.

        Raises:
            UserError: A key that does not exist, or a value that its key does not take.
        """
        changes = [f"--{key}={argument_text(value)}" for key, value in values.items()]
        given = [f"--{key}={value}" for key, value in options.items() if value is not None]
        try:
            return Recipe.parse(self.recipe.parser, [*self.arguments, *changes, *given])
        except UserError as error:
            raise UserError(f"{values_text(values)}: {error}") from error

    def write(self, sweep: Sweep, number: int, values: Values, time_limit_s: float | None) -> Path:
        """Write the recipe of a trial into the folder of the sweep.

        Args:
            sweep: The sweep.
            number: Of the trial.
            values: That were chosen for it.
            time_limit_s: Seconds that are left to this start of the sweep.
        """
        name = trial_name(number)
        recipe = self.with_values(
            values, run_dir=sweep.folder, run_name=name, time_limit_s=time_limit_s
        )
        path = recipe_file(sweep.folder, number)
        path.parent.mkdir(exist_ok=True)
        write_text(path, yaml.safe_dump(recipe.settings, sort_keys=False, allow_unicode=True))
        return path


def recipe_file(folder: Path, number: int) -> Path:
    """Where the recipe of a trial is.

    Args:
        folder: Of the sweep.
        number: Of the trial.
    """
    return folder / FOLDER / f"{trial_name(number)}.yaml"


def check_recipes(recipes: TrialRecipes, sweep: Sweep) -> list[int]:
    """Check the recipes of a sweep as `fit` does: keys, values, base checkpoint, rows, monitor.

    Every combination of listed values and ends of ranges is checked; where these are very many,
    every value by itself.

    Args:
        recipes: Of the sweep.
        sweep: The sweep.

    Returns:
        Optimizer steps of each recipe that was checked; -1 where epochs bound a run.

    Raises:
        UserError: The message names the values that cannot be used.
    """
    data = recipes.recipe.data
    set_up_fit(data)
    if not recipes.recipe.trainer.get("callbacks"):  # which may log names that are not known here
        check_monitor(sweep.monitor, data)
    steps = []
    for values in checked_values(sweep.space):
        recipe = recipes.with_values(values)
        trainer = {**TRAINER_DEFAULTS, **recipe.trainer}
        try:
            check_trainer(trainer, recipe.data.num_workers)
            recipe.model.check_arguments()
        except UserError as error:
            raise UserError(f"{values_text(values)}: {error}") from error
        steps.append(trainer.get("max_steps") or -1)
    return steps


def checked_values(space: Space) -> Iterator[Values]:
    """Choose the values that are checked before the sweep begins.

    Args:
        space: Keys and the values to try.
    """
    if math.prod(len(dimension.ends) for dimension in space) <= MOST_CHECKED:
        yield from combinations(space)
        return
    for dimension in space:
        for value in dimension.ends:
            yield {dimension.key: value}


def values_text(values: Mapping[str, Value]) -> str:
    """Write the values of a trial in one line.

    Args:
        values: Value by dotted key.
    """
    return ", ".join(f"{key} {value_text(value)}" for key, value in values.items())
