"""`dsvl-tune check-data --config RECIPE`: every row of a recipe's data, before anything is trained."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import whole_folder, write_json
from dsvl_tune.core.text_table import format_table
from dsvl_tune.data.readers.stream import StreamedRows
from dsvl_tune.data.validation.inspect import Examine
from dsvl_tune.data.validation.report import BINS, Report, leaks
from dsvl_tune.data.validation.result_cache import cached_inspection
from dsvl_tune.datamodules.base import ConversationDataModule, Rows
from dsvl_tune.datamodules.instruct import EachRow
from dsvl_tune.datamodules.mixture import MixtureDataModule
from dsvl_tune.demo.generated_rows import GeneratedRows
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.run.checks import set_up_fit

SHOWN = 3
"""Errors of a kind that are printed."""
DESCRIPTION = """\
check-data: read every row of a recipe's data and say what is wrong, how long rows are, what they show

  dsvl-tune check-data --config deepseek_vl_7b_chat_lora --data.train my/train.jsonl
  dsvl-tune check-data --config mine.yaml --json report.json --fix clean

Every row is rendered and tokenised, every image decoded, on all cores. Stopped and started again, the command goes on
where it was, and rows that were right and have not changed since are not read again. The exit code is 0 if nothing
would stop fit, else 2. All keys of a recipe can be given, as with fit."""


def check_data(data: ConversationDataModule) -> tuple[dict[str, Report], dict[str, Rows]]:
    """A report of each split, and the splits' rows."""
    processor = data.read_processor()  # not setup, which would stop at the first bad row
    limit = data.max_tokens or processor.context_tokens
    reports, splits = {}, data.unchecked()
    for split, rows in splits.items():
        form: Any = "generation" if split.endswith("test") else "training"
        examine = Examine(processor, form, data.max_tokens, data.on_overflow, looks=True)
        reports[split] = Report(limit)
        identity = rows.identity if isinstance(rows, (EachRow, GeneratedRows)) else None
        for facts in cached_inspection(rows, examine, identity, f"checking {split}"):
            reports[split].add(facts)
    return reports, splits


def overview(reports: dict[str, Report]) -> str:
    """A table of totals, a histogram, shares and warnings of all splits."""
    head = ["", "rows", "errors", "cut", "with images", "tokens", "mean", "longest", "supervised"]
    rows = []
    for split, report in reports.items():
        good = max(report.conversations - len(report.errors), 1)
        counts = [f"{n:,}" for n in (report.conversations, len(report.errors), report.cut)]
        sizes = [f"{n:,}" for n in (report.tokens, report.tokens // good, report.longest)]
        images, supervised = report.with_images / good, report.supervised / max(report.tokens, 1)
        rows.append([split, *counts, f"{100 * images:.0f} %", *sizes, f"{100 * supervised:.0f} %"])
    return "\n\n".join(
        [format_table(head, rows), *(details(split, report) for split, report in reports.items())]
    )


def details(split: str, report: Report) -> str:
    """Length histogram, turns, images and literal placeholders of a split."""
    lines = [f"{split}: tokens of a conversation, limit {report.limit:,}"]
    most = max(report.histogram) or 1
    for number, count in enumerate(report.histogram):
        last = f"{(number + 1) * report.limit // BINS:>7,}" if number < BINS else "   more"
        if count or number == BINS:
            lines.append(f"  to {last}  {count:>9,}  {'#' * round(40 * count / most)}")
    for name, counts in (("turns", report.turns), ("images", report.images)):
        lines.append(
            f"  {name}: " + ", ".join(f"{n} in {count:,}" for n, count in sorted(counts.items()))
        )
    for text, count in report.literals.items():
        lines.append(
            f"  warning: {count:,} conversations hold {text!r} as text; no image is shown there"
        )
    return "\n".join(lines)


def errors_table(reports: dict[str, Report]) -> str:
    """Errors by kind with the first of each kind; all of them are in the JSON report."""
    lines = []
    for split, report in reports.items():
        for kind, messages in report.kinds().items():
            lines.append(f"{split}: {len(messages):,} x {kind}")
            lines += [f"    {message}" for message in messages[:SHOWN]]
            lines += [f"    and {len(messages) - SHOWN:,} more"] if len(messages) > SHOWN else []
    return "\n".join(lines) or "no errors"


def leak_lines(found: dict[str, dict[str, int]], reports: dict[str, Report]) -> str:
    """What held-out rows share with training rows."""
    lines = []
    for pair, counts in found.items():
        total = reports[pair.split(" / ")[1]].conversations
        parts = ", ".join(f"{count:,} by {by}" for by, count in counts.items())
        lines.append(f"held-out rows that training rows give away ({pair}, of {total:,}): {parts}")
    return "\n".join(lines)


def all_leaks(reports: dict[str, Report]) -> dict[str, dict[str, int]]:
    """`report.leaks` of every held-out split against every training split."""
    train = [split for split in reports if split.endswith("train")]
    held = [
        split for split in reports if not split.endswith("train") and reports[split].conversations
    ]
    return {
        f"{one} / {other}": leaks(reports[one], reports[other]) for one in train for other in held
    }


def fix(out: Path, reports: dict[str, Report], splits: dict[str, Rows]) -> str:
    """Write the rows without errors as files of the same kind, and a list of what was left out; whole or not at all."""
    if out.exists():
        raise UserError(f"--fix {out}: exists. Give a new folder.")
    with whole_folder(out) as partial:
        lines = write_clean(partial, out, reports, splits)
    return "\n".join(lines)


def write_clean(
    partial: Path, out: Path, reports: dict[str, Report], splits: dict[str, Rows]
) -> list[str]:
    """Fill the folder that `out` will be; a line on each file."""
    left_out: list[dict[str, str]] = []
    written: list[str] = []
    for split, rows in splits.items():
        if not isinstance(rows, EachRow):
            made = "streamed" if isinstance(rows, StreamedRows) else "generated"
            raise UserError(
                f"--fix: the rows of {split!r} are {made}, not opened from files. Leave --fix out."
            )
        bad = dict(reports[split].errors)
        left_out += [{"split": split, "error": message} for message in bad.values()]
        before = 0
        for part, end in zip(
            rows.conversations.rows.parts, rows.conversations.rows.ends, strict=True
        ):
            kept = [number - before for number in range(before, end) if number not in bad]
            folder = partial / split.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            name = part.file_name  # files of several folders may have one name
            name = name if not (folder / name).exists() else f"{len(written)}_{name}"
            part.write(kept, folder / name)
            root = rows.conversations.images_root or part.root
            written.append(
                f"{out / folder.name / name}: {len(kept):,} of {end - before:,} rows; its images_root is {root}"
            )
            before = end
    write_json(partial / "left_out.json", left_out)
    return [*written, f"{out / 'left_out.json'}: {len(left_out):,} rows with their errors"]


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = recipe_parser("check-data", DESCRIPTION)
    parser.add_argument(
        "--json",
        type=str | None,
        metavar="FILE",
        help="write the report as JSON; - prints it instead of the tables",
    )
    parser.add_argument(
        "--fix",
        type=Path | None,
        metavar="OUT",
        help="folder to make: the rows without errors, and a list",
    )
    recipe = Recipe.parse(parser, arguments)
    data, options = recipe.data, recipe.config
    reports, splits = check_data(data)
    found = all_leaks(reports)
    content = {
        "splits": {split: report.as_json() for split, report in reports.items()},
        "leaks": found,
    }
    if options.json == "-":
        json.dump(content, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print(
            "\n\n".join(
                filter(None, [overview(reports), leak_lines(found, reports), errors_table(reports)])
            )
        )
    if options.json and options.json != "-":
        write_json(Path(options.json), content)
    if options.fix:
        print(
            fix(options.fix, reports, splits),
            file=sys.stderr if options.json == "-" else sys.stdout,
        )
    errors = sum(len(report.errors) for report in reports.values())
    if errors:
        raise UserError(
            f"{errors:,} rows would stop fit. Repair them, or write the others with --fix OUT."
        )
    set_up(data)


def set_up(data: ConversationDataModule) -> None:
    """What `fit` does before its first step, without decoding the images again; what it says goes to standard error.

    Raises:
        UserError: what is wrong with the data as a whole, such as nothing to hold out.
    """
    for module in (data, *(data.sources.values() if isinstance(data, MixtureDataModule) else ())):
        module.verify_images = False
    with redirect_stdout(sys.stderr):
        set_up_fit(data)
