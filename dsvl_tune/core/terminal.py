"""Text from outside on the terminal: file names, rows, headers and answers cannot steer it.

Escape sequences can move the cursor, retitle the window or recolor later lines, and a line break
can forge a message of ours. So control characters are shown as escapes.
"""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 control characters, the escape character among them
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # bidirectional overrides, which reorder what follows
    "\ud800-\udfff]"  # lone surrogates, which no terminal encoding can write
)


def escape(text: str, keep: str = "") -> str:
    r"""Show control characters as escapes.

    Args:
        text: From outside, e.g. a path of a row or a generated answer.
        keep: Characters to leave as they are, e.g. "\n\t".

    Returns:
        The text on one line unless `keep` has a line break.

    Example:
        >>> print(escape("a\x1b[2Jb\n"))
        a\x1b[2Jb\n
    """

    def replace(match: re.Match[str]) -> str:
        character = match[0]
        if character in keep:
            return character
        return character.encode("unicode_escape").decode("ascii")

    return _CONTROLS.sub(replace, text)


_HARMLESS = re.compile(
    r"\x1b\[[0-9;]*m"  # colors
    r"|\x1b\[[0-9]*[AK]|\x1b\[\?25[hl]"  # progress bars: line above, rest of the line, cursor
    r"|\r(?=\x1b|\n)|^\r|[\n\t]"
)


def escape_output(text: str) -> str:
    r"""Escape what a program writes to a terminal, and leave what progress bars and colors need.

    The last guard: texts from outside are escaped where they enter a message, line breaks too.

    Args:
        text: What one call writes.

    Example:
        >>> escape_output("plain\n\x07")
        'plain\n\\x07'
    """
    if _CONTROLS.search(text) is None:
        return text
    pieces = []
    end = 0
    for harmless in _HARMLESS.finditer(text):
        pieces += [escape(text[end : harmless.start()]), harmless[0]]
        end = harmless.end()
    return "".join([*pieces, escape(text[end:])])


def shorten(text: str, limit: int) -> str:
    """Leave out the middle of a long text, and say how much.

    Args:
        text: Of any length.
        limit: Most characters to keep.

    Example:
        >>> shorten("abcdefghij" * 10, 20)
        'abcdefghij ... 80 characters ... abcdefghij'
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... {len(text) - 2 * half:,} characters ... {text[-half:]}"
