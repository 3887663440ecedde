"""`dsvl-tune runs`: the runs and sweeps of a folder with their results."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.text_table import format_table

HEADER = ["run", "checkpoint", "state", "steps", "metric", "before", "after", "started"]
DAMAGED = "damaged"


def runs(folder: Path = Path("runs")) -> None:
    """List the runs of a folder with their results; the newest comes last.

      dsvl-tune runs
      dsvl-tune runs somewhere/runs

    The figure is the first one of the held-out test rows. A sweep is one line; its trials are
    listed by `dsvl-tune runs SWEEP`.

    Args:
        folder: Folder of the run folders.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder that holds the run folders.")
    if (folder / "config.yaml").is_file() and (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: is a run itself. Give the folder above it: {folder.parent}.")
    described = [*folder.glob("*/config.yaml"), *folder.glob("*/sweep.yaml")]
    if not described:
        raise UserError(f"{folder}: holds no run. `dsvl-tune fit` makes one.")
    described.sort(key=lambda path: path.stat().st_mtime)
    rows = [run_row(path.parent) for path in described if path.name == "config.yaml"]
    sweeps = [path.parent for path in described if path.name == "sweep.yaml"]
    if rows:
        print(format_table(HEADER, rows, left=3))
    if rows and sweeps:
        print()
    for sweep in sweeps:
        trials = len(list(sweep.glob("trial_*/config.yaml")))
        finished = len(list(sweep.glob("trial_*/summary.json")))
        print(f"sweep {sweep}: {trials} trials, {finished} of them finished")


def run_row(folder: Path) -> list[str]:
    """Describe a run in a line of the table; where a file is damaged, the line says so.

    Args:
        folder: Run folder.
    """
    from dsvl_tune.report.run_record import read_object
    from dsvl_tune.report.tables import known_figure

    config = folder / "config.yaml"
    started = f"{datetime.fromtimestamp(config.stat().st_mtime):%b %d %H:%M}"
    try:
        settings, summary = read_object(config), read_object(folder / "summary.json")
        checkpoint = Path(str(settings["model"]["checkpoint"]))
        steps = summary["steps"] if summary else last_logged_step(folder)
        metric = _first_figure(summary)
        return [
            folder.name,
            checkpoint.name if checkpoint.is_absolute() else str(checkpoint),
            run_state(folder, summary),
            f"{steps:,}",
            metric or "-",
            known_figure(metric, summary.get("before", {})),
            known_figure(metric, summary.get("after", {})),
            started,
        ]
    except (UserError, KeyError, TypeError, AttributeError, ValueError):
        return [folder.name, "-", DAMAGED, "-", "-", "-", "-", started]


def run_state(folder: Path, summary: dict[str, Any]) -> str:
    """Say whether a run is finished, running on this machine, or stopped.

    Args:
        folder: Run folder.
        summary: Content of its `summary.json`; {} without one.
    """
    import platform

    import psutil

    if summary:
        return "finished"
    try:
        holder = (folder / ".lock").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        holder = ""
    named = re.match(r"process (\d+) on (\S+)", holder)
    if named and named[2] == platform.node() and psutil.pid_exists(int(named[1])):
        return "running"
    return "stopped"


def last_logged_step(folder: Path) -> int:
    """Read how far a run that is not finished has come; 0 before its first log.

    Args:
        folder: Run folder.
    """
    from dsvl_tune.report.run_record import read_curves

    curves = read_curves(folder / "metrics")
    return max((curve[-1][0] for curve in curves.values() if curve), default=0)


def _first_figure(summary: dict[str, Any]) -> str:
    """Name of the first figure of the held-out test rows, "" without one."""
    return next(iter(summary.get("after", {})), "")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("runs", runs, skip={"folder"})
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), help="folder of the run folders"
    )
    runs(**vars(parser.parse_args(arguments)))
