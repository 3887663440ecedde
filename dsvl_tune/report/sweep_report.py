"""The page of a sweep: its trials as a table and as a plot in parallel coordinates."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dsvl_tune.core.storage.files import write_text
from dsvl_tune.report.pages import render
from dsvl_tune.report.parallel_coordinates import Axis, draw, list_axis, number_axis
from dsvl_tune.report.plots import figure_png, figure_svg
from dsvl_tune.report.run_report import GENERATOR, Section
from dsvl_tune.report.sweep_record import SweepRecord, monitor_text, short_names, value_text
from dsvl_tune.report.tables import Cell, Table, known_figure
from dsvl_tune.report.write_page import plots_folder

PLOT = "parallel coordinates"


def write_sweep_page(sweep: SweepRecord, page: Path) -> None:
    """Write the page of a sweep, and its plot into a folder next to it.

    Args:
        sweep: With at least one trial.
        page: The page; an earlier report is replaced.

    Raises:
        UserError: The page cannot be written.
    """
    text = sweep_report(sweep)
    write_text(page, text)
    folder = plots_folder(page)
    folder.mkdir(exist_ok=True)
    figure_png(_parallel_coordinates(sweep), PLOT, folder)


def sweep_report(sweep: SweepRecord) -> str:
    """The page of a sweep.

    Args:
        sweep: With at least one trial.
    """
    finished = sum(trial.state in ("finished", "pruned", "failed") for trial in sweep.trials)
    best = sweep.best
    subtitle = f"{finished} of {sweep.wanted} trials, compared by {sweep.monitor}."
    trials = Section(
        "Trials",
        note=(
            f"The best {sweep.monitor} of each trial's validations; the held-out test rows take "
            "no part in choosing. Small differences may be chance."
        ),
        tables=[trials_table(sweep)],
        commands=[
            *([f"dsvl-tune merge {shlex.quote(str(sweep.folder / best.name))}"] if best else []),
            f"dsvl-tune report {' '.join(_best_folders(sweep))}",
        ],
    )
    plot = {
        "title": "Values and figure of each trial",
        "svg": Markup(figure_svg(_parallel_coordinates(sweep), PLOT)),
        "left_out": 0,
    }
    note = "A line is a trial; the best one is orange, pruned ones are dashed."
    sections = [Section("Values", note=note, plots=[plot]), trials]
    return render(
        "run_report.html",
        generator=GENERATOR,
        title=f"Sweep {sweep.folder.resolve().name}",
        subtitle=subtitle,
        sections=sections,
    )


def trials_table(sweep: SweepRecord) -> Table:
    """A row for each trial, the best first.

    Args:
        sweep: With at least one trial.
    """
    held_out = next((name for trial in sweep.ranked for name in trial.after), "")
    header = [
        "trial",
        "state",
        f"best {sweep.monitor}",
        *([f"held-out {held_out}"] if held_out else []),
        *short_names([key.name for key in sweep.keys]),
        "steps",
        "time",
    ]
    rows = []
    for trial in sweep.ranked:
        is_best = trial is sweep.best
        rows.append(
            [
                Cell(trial.name),
                Cell(trial.state),
                Cell(monitor_text(sweep.monitor, trial.figure), "right" if is_best else ""),
                *([Cell(known_figure(held_out, trial.after))] if held_out else []),
                *(Cell(value_text(trial.values[key.name])) for key in sweep.keys),
                Cell(f"{trial.steps:,}"),
                Cell(_time(trial.wall_s)),
            ]
        )
    return Table(header, rows)


def _parallel_coordinates(sweep: SweepRecord) -> Any:
    """Draw an axis for each key and one for the figure; a line for each trial that has one."""
    shown = [trial for trial in reversed(sweep.ranked) if trial.figure is not None]
    axes: list[Axis] = []
    for key, name in zip(sweep.keys, short_names([key.name for key in sweep.keys]), strict=True):
        values = [trial.values[key.name] for trial in shown]
        if key.choices:
            axes.append(list_axis(name, values, key.choices, value_text))
        else:
            axes.append(number_axis(name, values, value_text, is_log=key.is_log))
    figures = [trial.figure for trial in shown]
    axes.append(
        number_axis(sweep.monitor, figures, lambda value: monitor_text(sweep.monitor, value))
    )
    best = next((place for place, trial in enumerate(shown) if trial is sweep.best), None)
    dashed = [trial.state != "finished" for trial in shown]
    return draw(axes, best=best, dashed=dashed, higher_is_better=sweep.higher_is_better)


def _best_folders(sweep: SweepRecord) -> list[str]:
    """The run folders of the two best trials."""
    finished = [trial for trial in sweep.ranked if trial.state == "finished"]
    return [shlex.quote(str(sweep.folder / trial.name)) for trial in finished[:2]]


def _time(seconds: float | None) -> str:
    """A time for people; "-" where it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
