"""Tables on a terminal of some width, and in a file."""

from __future__ import annotations

import builtins
import io
import re
import sys

import pytest
from rich.console import Console

from dsvl_tune.core.text_table import format_table

WORDS = "reads charts and keeps what it knew before, also of scenes"
ROWS = [["charts_lora", WORDS, "98.3 %"], ["[red]图表\x1b[2J", "short", "-"]]
HEADER = ["recipe", "purpose", "figure"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_file_each_row_is_a_line() -> None:
    assert format_table(HEADER, ROWS, left=2).splitlines() == [
        f"recipe            purpose{' ' * (len(WORDS) - 7)}  figure",
        f"----------------- {'-' * (len(WORDS) + 1)} ------",
        f"charts_lora       {WORDS}  98.3 %",
        f"[red]图表\\x1b[2J  short{' ' * (len(WORDS) - 5)}       -",
    ]


@pytest.mark.parametrize("width", [40, 60])
def test_a_terminal_has_all_of_it_in_its_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    table = format_table(HEADER, ROWS, left=2)
    assert "\x1b[1mrecipe" in table and "\x1b[2J" not in table
    lines = re.sub(r"\x1b\[\d*m", "", table).splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(lines).split()
    assert set(WORDS.split()) | {"charts_lora", "98.3"} <= set(shown)


def test_a_notebook_gets_the_table_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself rich would display it, beside and before the lines that are printed around it."""
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    assert Console().is_jupyter
    assert format_table(["a"], [["1"]]).splitlines()[-1] == "1"
