"""`dsvl-tune report RUN [RUN ...]`: a run, a sweep, or several runs side by side, as one page."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError
from dsvl_tune.sweep.folder import is_sweep


def report_command(out: Path | None = None, images: bool = True) -> None:
    """Write a page about a finished run, about a sweep, or about several runs side by side.

      dsvl-tune report runs/charts_lora
      dsvl-tune report runs/charts_lora runs/charts_lora-2 --out compared.html
      dsvl-tune report runs/charts_lora_sweep

    One run: results before and after training, held-out questions with their images and answers,
    curves, and how it was trained. Several runs: their results side by side, the settings in which
    they differ, their curves over each other, and the questions that they answer differently. A
    sweep: a table and a plot of its trials, which are runs themselves.

    The page is one file that loads nothing, so it can be sent on. The plots are also written as PNG
    files, into a folder next to it. `fit` and `sweep` write their pages by themselves.

    Args:
        out: The page (default: report.html in the run folder, or here for several runs).
        images: Whether the questions are shown with their images; the data of the run must then
            still be in its place.
    """


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("report", report_command)
    parser.add_argument("runs", nargs="+", type=Path, help="Folders of finished runs, or a sweep.")
    options = parser.parse_args(arguments)
    sweeps = [run for run in options.runs if is_sweep(run)]
    if sweeps and len(options.runs) > 1:
        raise UserError(
            f"{sweeps[0]}: is a sweep, which has a page of its own. Give it alone, or give the "
            "folders of its trials."
        )
    if sweeps:
        from dsvl_tune.sweep.record import report_sweep

        page = report_sweep(sweeps[0], options.out)
    else:
        from dsvl_tune import api

        page = api.write_report(options.runs, options.out, images=options.images)
    print(f"page: {page}")
