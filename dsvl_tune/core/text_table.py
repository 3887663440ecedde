"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.terminal import escape


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align cells in columns.

    Args:
        header: Names of the columns.
        rows: Cells of each row, as many as there are columns.
        left: Number of columns that are aligned to the left; the others are to the right.

    Returns:
        The header, a rule and a line per row, without a newline at the end.

    Example:
        >>> print(format_table(["part", "trained"], [["aligner", "7"], ["head", "12"]]))
        part     trained
        -------  -------
        aligner        7
        head          12
    """
    rows = [[escape(cell) for cell in row] for row in rows]
    columns = zip(header, *rows, strict=True)
    widths = [max(len(cell) for cell in column) for column in columns]
    rule = ["-" * width for width in widths]
    return "\n".join(_format_line(cells, widths, left) for cells in (header, rule, *rows))


def _format_line(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    """Pad the cells of a line to the widths of their columns."""
    padded = [
        cell.ljust(width) if column < left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
