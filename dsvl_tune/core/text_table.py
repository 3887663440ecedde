"""Tables for the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from io import StringIO

from dsvl_tune.core.terminal import escape

UNBOUNDED = 10_000
"""Width of a table in a file, in columns."""
RULE_BELOW_HEADER = "\n".join(["    ", "    ", " -  ", "    ", "    ", "    ", "    ", "    "])
"""A box of rich without any line but this one, in ASCII."""


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align cells in columns.

    On a terminal the table is as wide as that at most: longer texts are wrapped, the widest column
    first. In a file each row is a line.

    Args:
        header: Names of the columns.
        rows: Cells of each row, as many as there are columns.
        left: Number of columns that are aligned to the left; the others are to the right.

    Returns:
        The header, a rule and the rows, without a newline at the end.

    Example:
        >>> print(format_table(["part", "trained"], [["aligner", "7"], ["head", "12"]]))
        part     trained
        -------- -------
        aligner        7
        head          12
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=Box(RULE_BELOW_HEADER, ascii=True),
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for place, name in enumerate(header):
        table.add_column(Text(name), justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else UNBOUNDED
    text = StringIO()
    # In a notebook rich would display the table beside what is printed around it.
    Console(file=text, width=width, force_terminal=is_terminal, force_jupyter=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
