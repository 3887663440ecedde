"""`dsvl-tune check-data --config RECIPE`: check every row of a recipe's data before training."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.outputs import check_new, check_output_file
from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
check-data: read every row of a recipe's data; report errors, lengths and what rows show

  dsvl-tune check-data --config mine.yaml
  dsvl-tune check-data --config mine.yaml --json report.json --fix clean

Every row is rendered and tokenized, every image decoded, on all cores. An interrupted check resumes
where it stopped, and rows that were valid and have not changed since are not read again. The exit
code is 0 if nothing would stop fit, else 2. Every key of a recipe can be given, as with fit."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--json",
        type=str | None,
        default=None,
        metavar="FILE",
        help="write the report as JSON; - prints it instead of the tables",
    )
    parser.add_argument(
        "--fix",
        type=Path | None,
        default=None,
        metavar="OUT",
        help="folder to make: the rows without errors, and a list of the others",
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("check-data", DESCRIPTION, arguments, add_options)

    from dsvl_tune.cli.data_report import check_data, is_report, print_report, set_up
    from dsvl_tune.data.validation.clean_rows import write_clean_rows

    data, options = recipe.data, recipe.config
    if options.json and options.json != "-":
        check_output_file(Path(options.json), "--json", is_report)
    if options.fix:
        check_new(options.fix, "--fix")
    reports, splits = check_data(data)
    print_report(reports, splits, options.json)
    if options.fix:
        lines = write_clean_rows(options.fix, splits, reports)
        print("\n".join(lines), file=sys.stderr if options.json == "-" else sys.stdout)
    errors = sum(len(report.errors) for report in reports.values())
    if errors:
        raise UserError(
            f"{errors:,} rows would stop fit. Repair them, or write the others with --fix OUT."
        )
    set_up(data)
