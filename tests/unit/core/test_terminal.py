"""Text from outside cannot steer the terminal, forge a line or fill the screen."""

from __future__ import annotations

import pytest

from dsvl_tune.core.errors import MESSAGE_CHARACTERS, UserError
from dsvl_tune.core.terminal import escape, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x1b]0;title\x07b", r"a\x1b[2J\x1b]0;title\x07b"),
        ("one\ndsvl-tune: error: two", r"one\ndsvl-tune: error: two"),
        ("\x9b31m", r"\x9b31m"),  # a one-byte escape sequence
        ("invoice\u202egnp.exe", r"invoice\u202egnp.exe"),
        ("a\u2028b\ud800", r"a\u2028b\ud800"),
        ("Größe 中文\u3000👩‍🔬 ok", "Größe 中文\u3000👩‍🔬 ok"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    assert escape(text) == shown
    assert str(UserError(text)) == shown


def test_characters_can_be_kept() -> None:
    assert escape("a\tb\nc\x1b", keep="\n\t") == "a\tb\nc\\x1b"


def test_a_message_fits_a_screen() -> None:
    message = str(UserError(f"rows.jsonl:3: image {'A' * 428_496}: no such file."))
    assert len(message) < 500
    assert message.startswith("rows.jsonl:3: image AAA") and message.endswith("no such file.")
    assert "428,097 characters" in message and shorten("short", 10) == "short"
    assert len(str(UserError("word " * 100_000))) < MESSAGE_CHARACTERS + 40


def test_a_worker_error_keeps_the_last_message_only() -> None:
    text = "Traceback ...\ndsvl_tune.core.errors.UserError: rows.jsonl:3: empty.\n"
    assert str(UserError(text)) == "rows.jsonl:3: empty."
