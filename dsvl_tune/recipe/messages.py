"""jsonargparse's messages in the words of those who write recipes."""

from __future__ import annotations

import re

PLAIN_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys and their values",
}
"""Python's types, as a recipe's reader knows them."""
YAML_WORDS = {"None": "null", "True": "true", "False": "false"}


def plain_types(message: str) -> str:
    """Replace names of Python's types and constants in a message about a wrong value.

    Args:
        message: Of jsonargparse.

    Example:
        >>> plain_types("Expected a <class 'int'>. Got value: None")
        'expected a whole number, found null'
    """
    for python, plain in PLAIN_TYPES.items():
        message = message.replace(f"Expected a <class '{python}'>", f"expected {plain}")
    message = re.sub(r"(expected [a-z ]+)\. Got value: ", r"\1, found ", message)
    return re.sub(
        r", found (None|True|False)\b", lambda found: f", found {YAML_WORDS[found[1]]}", message
    )
