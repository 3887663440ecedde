"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align cells in columns; the first column to the left, the others to the right.

    Args:
        header: Names of the columns.
        rows: Cells of each row, as many as there are columns.

    Returns:
        The header, a rule and a line per row, without a newline at the end.

    Example:
        >>> print(format_table(["part", "trained"], [["aligner", "7"], ["head", "12"]]))
        part     trained
        -------  -------
        aligner        7
        head          12
    """
    columns = zip(header, *rows, strict=True)
    widths = [max(len(cell) for cell in column) for column in columns]
    rule = ["-" * width for width in widths]
    return "\n".join(_format_line(cells, widths) for cells in (header, rule, *rows))


def _format_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Pad the cells of a line to the widths of their columns."""
    padded = [cells[0].ljust(widths[0])]
    for cell, width in zip(cells[1:], widths[1:], strict=True):
        padded.append(cell.rjust(width))
    return "  ".join(padded)
