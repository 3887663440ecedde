"""Writing the rows without errors to files of the same format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_folder, write_json
from dsvl_tune.core.storage.outputs import check_new
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.validation.report import SplitReport

LEFT_OUT = "left_out.json"


def write_clean_rows(
    out: Path, splits: Mapping[str, Rows], reports: Mapping[str, SplitReport]
) -> list[str]:
    """Write the rows without errors, and a list of those that were left out; whole or not at all.

    Args:
        out: folder to make.
        splits: rows of each split, each a conversation.
        reports: of each split.

    Returns:
        A line about each file.

    Raises:
        UserError: the folder exists, or a split is not opened from files.
    """
    check_new(out, "--fix")
    for split, rows in splits.items():
        if not rows.files:
            raise UserError(
                f"--fix: the rows of {split!r} are not opened from files (they are streamed or "
                "generated), so they cannot be written. Leave --fix out."
            )
    lines: list[str] = []
    left_out: list[dict[str, str]] = []
    with atomic_folder(out) as partial:
        for split, rows in splits.items():
            bad = dict(reports[split].errors)
            left_out += [{"split": split, "error": message} for message in bad.values()]
            folder = split.replace(" ", "_")
            lines += write_split(partial / folder, out / folder, rows, set(bad))
        write_json(partial / LEFT_OUT, left_out)
    return [*lines, f"{out / LEFT_OUT}: {len(left_out):,} rows with their errors"]


def write_split(partial: Path, folder: Path, rows: Rows, bad: set[int]) -> list[str]:
    """Write the files of a split.

    Args:
        partial: folder to write to.
        folder: the folder that it will be.
        rows: the split's rows.
        bad: numbers of the rows to leave out.

    Returns:
        A line about each file.
    """
    partial.mkdir(parents=True, exist_ok=True)
    lines = []
    first = 0
    for number, file in enumerate(rows.files):
        kept = [index for index in range(len(file)) if first + index not in bad]
        name = file.file_name
        if (partial / name).exists():  # files of several folders may have one name
            name = f"{number}_{name}"
        file.write(kept, partial / name)
        lines.append(
            f"{folder / name}: {len(kept):,} of {len(file):,} rows; "
            f"its images_root is {rows.images_root or file.root}"
        )
        first += len(file)
    return lines
