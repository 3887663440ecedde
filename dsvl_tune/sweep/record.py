"""What a sweep has come to, for the report and the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.text_table import format_table
from dsvl_tune.report.run_record import read_object
from dsvl_tune.report.sweep_record import (
    SweepRecord,
    SweptKey,
    TrialRecord,
    monitor_text,
    short_names,
    value_text,
)
from dsvl_tune.sweep.definition import Sweep, read_definition
from dsvl_tune.sweep.folder import trial_name
from dsvl_tune.sweep.space import Choices
from dsvl_tune.sweep.study import has_values, open_study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def read_sweep(folder: Path) -> SweepRecord:
    """Read the trials of a sweep, finished or not.

    Args:
        folder: Of the sweep.

    Raises:
        UserError: It is no sweep, its definition is damaged, or Optuna is not installed.
    """
    sweep = read_definition(folder)
    trials = [trial for trial in open_study(sweep).get_trials() if has_values(sweep, trial)]
    keys = [
        SweptKey(
            dimension.key,
            dimension.values if isinstance(dimension, Choices) else (),
            is_log=not isinstance(dimension, Choices) and dimension.log,
        )
        for dimension in sweep.space
    ]
    return SweepRecord(
        folder,
        sweep.monitor,
        sweep.higher_is_better,
        keys,
        [_record(sweep, trial) for trial in trials],
        sweep.num_trials,
    )


def report_sweep(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a sweep, finished or not.

    Args:
        folder: Of the sweep.
        out: The page; None takes `report.html` in the folder.

    Returns:
        The page.

    Raises:
        UserError: It is no sweep, it has no trial yet, or `out` exists and is no such page.
    """
    from dsvl_tune.report.sweep_report import write_sweep_page
    from dsvl_tune.report.write_page import check_page

    page = out or folder / "report.html"
    check_page(page)
    sweep = read_sweep(folder)
    if not sweep.trials:
        raise UserError(f"{folder}: the sweep has no trial yet. Run its command again.")
    write_sweep_page(sweep, page)
    return page


def _record(sweep: Sweep, trial: FrozenTrial) -> TrialRecord:
    """Read one trial: its figures are in the study, what it took in its run folder."""
    name = trial_name(trial.number)
    summary = read_object(sweep.folder / name / "summary.json")
    figures = trial.intermediate_values
    choose = max if sweep.higher_is_better else min
    return TrialRecord(
        name,
        {"complete": "finished", "fail": "failed"}.get(state := trial.state.name.lower(), state),
        trial.params,
        choose(figures.values()) if figures else None,
        summary.get("steps", max(figures, default=0)),
        summary.get("wall_s"),
        summary.get("after", {}),
    )


def trials_text(sweep: SweepRecord) -> str:
    """The table of the trials that a sweep prints at its end, the best first.

    Args:
        sweep: With at least one trial.
    """
    names = short_names([key.name for key in sweep.keys])
    header = ["trial", *names, f"best {sweep.monitor}", "steps", "state"]
    rows = [
        [
            trial.name,
            *(value_text(trial.values[key.name]) for key in sweep.keys),
            monitor_text(sweep.monitor, trial.figure),
            f"{trial.steps:,}",
            trial.state,
        ]
        for trial in sweep.ranked
    ]
    lines = [format_table(header, rows)]
    if sweep.best is not None:
        best = shlex.quote(str(sweep.folder / sweep.best.name))
        lines += ["", f"best: {best}", f"next: dsvl-tune merge {best}"]
    return "\n".join(lines)
