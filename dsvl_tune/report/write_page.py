"""Write the report of finished runs: the page, and its plots as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import write_text
from dsvl_tune.core.storage.outputs import check_output_file
from dsvl_tune.core.types import Conversation
from dsvl_tune.report.pages import is_page
from dsvl_tune.report.pictures import pictures_of
from dsvl_tune.report.run_record import RunRecord
from dsvl_tune.report.run_report import (
    GENERATOR,
    comparison_report,
    differing_questions,
    run_report,
    shown_questions,
    write_plots,
)

HeldOutRows = Mapping[str, Iterable[list[Conversation]]]
"""Rows of the held-out sets by name."""


def write_page(runs: Sequence[RunRecord], page: Path, rows: HeldOutRows) -> None:
    """Write the page of one run or of several, and their plots into a folder next to it.

    Args:
        runs: Finished runs, at least one.
        page: The page; an earlier report is replaced.
        rows: Held-out rows of the first run, for the images of its questions; {} shows none.

    Raises:
        UserError: An image cannot be read any more, or the page cannot be written.
    """
    if len(runs) == 1:
        asked = {
            name: {question.source for question in questions}
            for name, questions in shown_questions(runs[0]).items()
        }
    else:
        asked = {"test": {source for source, _ in differing_questions(runs)}}
    pictures: dict[str, list[str]] = {}
    for name, sources in asked.items():
        pictures |= pictures_of(rows.get(name, ()), sources)
    text = run_report(runs[0], pictures) if len(runs) == 1 else comparison_report(runs, pictures)
    write_text(page, text)  # before the plots: beside a page of ours they may be replaced
    folder = plots_folder(page)
    folder.mkdir(exist_ok=True)
    write_plots(runs, folder)


def plots_folder(page: Path) -> Path:
    """Where the plots of a page are written as files."""
    return page.with_name(f"{page.stem}_plots")


def check_page(page: Path) -> None:
    """Check that a page and its plots can be written and replace nothing but earlier ones.

    Raises:
        UserError: The page is an existing file that is no report, or files that are not of an
            earlier report are where its plots go.
    """
    check_output_file(page, "--out", is_report)
    folder = plots_folder(page)
    is_taken = any(folder.iterdir()) if folder.is_dir() else folder.exists() or folder.is_symlink()
    if is_taken and not (page.is_file() and folder.is_dir()):
        raise UserError(
            f"--out {page}: its plots go into {folder}, which is there and not of a report. "
            "Choose another name."
        )


def is_report(path: Path) -> bool:
    """Whether a file is a report, which may be replaced."""
    return is_page(path, GENERATOR)
