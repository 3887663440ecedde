"""Write the report of finished runs: the page, and its plots as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dsvl_tune.core.storage.files import write_text
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
    folder = page.with_name(f"{page.stem}_plots")
    folder.mkdir(exist_ok=True)
    write_plots(runs, folder)
    write_text(page, text)


def is_report(path: Path) -> bool:
    """Whether a file is a report, which may be replaced."""
    return is_page(path, GENERATOR)
