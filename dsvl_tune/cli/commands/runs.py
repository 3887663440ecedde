"""`dsvl-tune runs`: the runs of a folder with their results."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.text_table import format_table

HEADER = ["run", "checkpoint", "steps", "metric", "before", "after", "started"]


def runs(folder: Path = Path("runs")) -> None:
    """List the runs of a folder with their results; the newest comes last.

      dsvl-tune runs
      dsvl-tune runs --folder somewhere/runs

    The figure is that of the metric which selected the best checkpoint, on the held-out test rows.

    Args:
        folder: Folder of the run folders.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder that holds the run folders.")
    configs = sorted(folder.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise UserError(f"{folder}: holds no run. `dsvl-tune fit` makes one.")
    print(format_table(HEADER, [run_row(config.parent) for config in configs], left=2))


def run_row(folder: Path) -> list[str]:
    """Describe a run in a line of the table.

    Args:
        folder: Run folder.

    Raises:
        UserError: A file of it is damaged.
    """
    from dsvl_tune.report.run_record import read_object
    from dsvl_tune.report.tables import known_figure

    settings = read_object(folder / "config.yaml")
    summary = read_object(folder / "summary.json")
    started = datetime.fromtimestamp((folder / "config.yaml").stat().st_mtime)
    metric = _first_figure(summary)
    return [
        folder.name,
        str(settings.get("model", {}).get("checkpoint", "-")),
        f"{summary['steps']:,}" if "steps" in summary else "unfinished",
        metric or "-",
        known_figure(metric, summary.get("before", {})),
        known_figure(metric, summary.get("after", {})),
        f"{started:%Y-%m-%d %H:%M}",
    ]


def _first_figure(summary: dict[str, Any]) -> str:
    """Name of the first figure of the held-out test rows, "" without one."""
    return next(iter(summary.get("after", {})), "")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("runs", runs)
    runs(**vars(parser.parse_args(arguments)))
