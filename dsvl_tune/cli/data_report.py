"""What `dsvl-tune check-data` finds in every row of a recipe's data, and how it prints that."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from dsvl_tune.core.family import RenderMode
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.core.terminal import escape
from dsvl_tune.core.text_table import format_table
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.validation.inspect import inspect_rows
from dsvl_tune.data.validation.leakage import Leaks, all_leaks
from dsvl_tune.data.validation.report import BINS, SplitReport
from dsvl_tune.datamodules import ConversationDataModule
from dsvl_tune.training.run.checks import set_up_fit

SHOWN = 3
"""Errors of a kind that are printed."""
BAR_WIDTH = 40
"""Characters of the longest bar of a histogram."""
HEAD = ("", "rows", "errors", "cut", "with images", "tokens", "mean", "longest", "supervised")


def check_data(
    data: ConversationDataModule,
) -> tuple[dict[str, SplitReport], dict[str, Rows]]:
    """A report of each split, and the rows of each split."""
    processor = data.read_processor()  # not setup, which stops at the first bad row
    limit = data.max_tokens or processor.context_tokens
    splits = data.unchecked()
    reports = {}
    for split, rows in splits.items():
        mode: RenderMode = "generation" if split.endswith("test") else "training"
        inspector = data.inspector(mode, decode=True, hash_images=True)
        reports[split] = SplitReport(limit)
        for results in inspect_rows(rows, inspector, title=f"checking {split}"):
            for stats in results:
                reports[split].add(stats)
    return reports, splits


def overview(reports: dict[str, SplitReport]) -> str:
    """A table of totals, then lengths, modalities and warnings of each split."""
    table = format_table(list(HEAD), [totals(*item) for item in reports.items()])
    return "\n\n".join([table, *(details(*item) for item in reports.items())])


def totals(split: str, report: SplitReport) -> list[str]:
    """A split's line of the table of totals."""
    good = max(report.conversations - len(report.errors), 1)
    counts = (report.conversations, len(report.errors), report.cut)
    sizes = (report.tokens, report.tokens // good, report.longest)
    supervised = report.supervised / max(report.tokens, 1)
    return [
        split,
        *(f"{count:,}" for count in counts),
        f"{100 * report.with_images / good:.0f} %",
        *(f"{size:,}" for size in sizes),
        f"{100 * supervised:.0f} %",
    ]


def details(split: str, report: SplitReport) -> str:
    """Length histogram, turns, images and literal placeholders of a split."""
    lines = [f"{split}: tokens of a conversation, limit {report.limit:,}"]
    most = max(report.histogram) or 1
    for number, count in enumerate(report.histogram):
        last = f"{(number + 1) * report.limit // BINS:>7,}" if number < BINS else "   more"
        if count or number == BINS:
            lines.append(f"  to {last}  {count:>9,}  {'#' * round(BAR_WIDTH * count / most)}")
    for name, counts in (("turns", report.turns), ("images", report.images)):
        shown = ", ".join(f"{number} in {count:,}" for number, count in sorted(counts.items()))
        lines.append(f"  {name}: {shown}")
    if report.image_lengths:
        shown = "; ".join(f"{length} in {n:,}" for length, n in report.image_lengths.most_common())
        lines.append(f"  an image takes: {shown}")
    for text, count in report.literals.items():
        lines.append(
            f"  note: {count:,} conversations contain {text!r} as a word; no image is shown there"
        )
    return "\n".join(lines)


def errors_table(reports: dict[str, SplitReport]) -> str:
    """Errors by kind with the first of each kind; all of them are in the JSON report."""
    lines = []
    for split, report in reports.items():
        for kind, messages in report.error_kinds().items():
            lines.append(f"{split}: {len(messages):,} x {kind}")
            lines += [f"    {message}" for message in messages[:SHOWN]]
            if len(messages) > SHOWN:
                lines.append(f"    and {len(messages) - SHOWN:,} more")
    return "\n".join(lines) or "no errors"


def leak_lines(found: dict[str, Leaks], reports: dict[str, SplitReport]) -> str:
    """What held-out rows share with training rows, with the first pairs of images."""
    lines = []
    for pair, leaks in found.items():
        total = reports[pair.split(" / ")[1]].conversations
        parts = ", ".join(f"{count:,} by {by}" for by, count in leaks.counts().items())
        lines.append(f"held-out rows that leak into training rows ({pair}, of {total:,}): {parts}")
        lines += [f"    {escape(own)} is {escape(other)}" for own, other in leaks.pairs[:SHOWN]]
        if len(leaks.pairs) > SHOWN:
            lines.append(f"    and {len(leaks.pairs) - SHOWN:,} more pairs; --json lists them all")
    return "\n".join(lines)


def is_report(path: Path) -> bool:
    """Whether a file is a report of this command."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() == {"splits", "leaks"}


def print_report(
    reports: dict[str, SplitReport], splits: dict[str, Rows], file: str | None
) -> None:
    """Print the report, or write it as JSON.

    Args:
        reports: of each split.
        splits: the rows of each split.
        file: file to write as well; "-" prints JSON instead of tables.
    """
    found = all_leaks(reports, splits)
    content: dict[str, Any] = {
        "splits": {split: report.as_json() for split, report in reports.items()},
        "leaks": {pair: leaks.as_json() for pair, leaks in found.items()},
    }
    if file == "-":
        json.dump(content, sys.stdout, indent=2)  # ASCII: what controls a terminal is escaped
        print()
        return
    sections = [overview(reports), leak_lines(found, reports), errors_table(reports)]
    print("\n\n".join(section for section in sections if section))
    if file:
        write_json(Path(file), content)


def set_up(data: ConversationDataModule) -> None:
    """Do what `fit` does before its first step, without decoding images; prints to standard error.

    Raises:
        UserError: what is wrong with the data as a whole, e.g. nothing to hold out.
    """
    data.skip_image_checks()
    with redirect_stdout(sys.stderr):
        set_up_fit(data)
