"""A row of a benchmark, whatever file it came from: VLMEvalKit's column names for all."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef


@dataclass(frozen=True)
class BenchmarkRow:
    """A question of a benchmark.

    Attributes:
        index: unique within the benchmark.
        images: in the order of the file.
        cells: text of each other column, as VLMEvalKit names them; empty ones are left out.
        source: file and row, for errors.
    """

    index: str
    images: tuple[ImageRef, ...]
    cells: Mapping[str, str]
    source: str

    @property
    def is_labelled(self) -> bool:
        """Whether the row has an answer; test splits have none."""
        return "answer" in self.cells

    def text(self, column: str) -> str:
        """Text of a column.

        Raises:
            UserError: the cell is empty.
        """
        if column not in self.cells:
            raise UserError(f"{self.source}: {column} is empty. Expected a text.")
        return self.cells[column]

    def texts(self, column: str) -> tuple[str, ...]:
        """The texts of a cell that holds a list, or its only one."""
        listed = parse_list(self.text(column))
        return (self.text(column),) if listed is None else listed

    @property
    def options(self) -> dict[str, str]:
        """The options by their letters: the columns A, B, ..."""
        return {letter: self.cells[letter] for letter in ascii_uppercase if letter in self.cells}


def parse_list(text: str) -> tuple[str, ...] | None:
    """The texts of a Python list of texts; None for any other text."""
    if not text.startswith("["):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    return tuple(value)
