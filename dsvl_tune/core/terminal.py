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
