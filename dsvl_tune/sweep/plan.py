"""From a command line to a sweep, and what it will do, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.text_table import format_table
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.sweep.definition import Sweep, check_same, read_definition
from dsvl_tune.sweep.folder import is_sweep
from dsvl_tune.sweep.space import read_space
from dsvl_tune.sweep.study import random_trials
from dsvl_tune.training.callbacks.monitor_check import NO_MONITOR, chosen_monitor, monitor_mode
from dsvl_tune.training.run.folder import CONFIG


def define_sweep(recipe: Recipe, over: Sequence[str], *, trials: int | None, prune: bool) -> Sweep:
    """Make the sweep that a command line asks for.

    Args:
        recipe: With the command line's own keys.
        over: What to try, see `space.read_space`.
        trials: Number of trials; None tries every combination.
        prune: Whether to stop trials early.

    Raises:
        UserError: Values that are none, or the folder holds something else.
    """
    metrics = recipe.data.metrics
    monitor = chosen_monitor(recipe.config.monitor, metrics)
    if monitor == NO_MONITOR:
        raise UserError(
            f"--monitor {NO_MONITOR}: trials are compared by a figure of their validations. Name "
            "one, e.g. --monitor val/loss."
        )
    sweep = Sweep(
        recipe.first_run_folder.with_name(f"{recipe.first_run_folder.name}_sweep"),
        read_space(over),
        trials,
        prune,
        monitor,
        monitor_mode(monitor, metrics) == "max",
        recipe.settings,
    )
    _ = sweep.num_trials
    if is_sweep(sweep.folder):
        check_same(sweep, read_definition(sweep.folder))
    elif (sweep.folder / CONFIG).exists() or sweep.folder.is_file():
        raise UserError(
            f"{sweep.folder}: exists and is no sweep. Give this one a --run_name of its own."
        )
    return sweep


def plan_text(sweep: Sweep, steps: Sequence[int]) -> str:
    """Describe what a sweep will try, and what it costs.

    Args:
        sweep: The sweep.
        steps: Optimizer steps of the recipes that were checked; -1 where epochs bound a run.
    """
    rows = [[dimension.key, str(dimension)] for dimension in sweep.space]
    table = format_table(["key", "values"], rows, left=2)
    if sweep.is_grid:
        how = "every combination"
    else:
        first = min(random_trials(sweep), sweep.num_trials)
        how = f"chosen by TPE, the first {first} at random"
    pruned = ", less for those that are pruned" if sweep.prune else ""
    return (
        f"sweep: {sweep.folder}\n\n{table}\n\n"
        f"trials: {sweep.num_trials}, {how}; compared by the best {sweep.monitor}\n"
        f"cost: {cost_text(sweep, steps)}{pruned}"
    )


def cost_text(sweep: Sweep, steps: Sequence[int]) -> str:
    """Count the optimizer steps of a sweep.

    Args:
        sweep: The sweep.
        steps: As in `plan_text`.
    """
    number = sweep.num_trials
    if min(steps) < 0:
        epochs = sweep.settings["trainer"].get("max_epochs")
        return f"{number} trials x {epochs} epochs" if epochs else f"{number} trials"
    if min(steps) == max(steps):
        return f"{number} trials x {steps[0]:,} steps = {number * steps[0]:,} optimizer steps"
    total = sum(steps) if sweep.is_grid and len(steps) == number else number * max(steps)
    return f"{number} trials of {min(steps):,} to {max(steps):,} steps, at most {total:,} in all"
