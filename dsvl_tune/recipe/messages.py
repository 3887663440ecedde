"""jsonargparse's messages in the words of those who write recipes."""

from __future__ import annotations

import re

from dsvl_tune.core.terminal import shorten

PLAIN_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys and their values",
    "collections.abc.Mapping": "keys and their values",
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
    message = re.sub(
        r"Expected a path but (.*?) either not accessible or invalid ",
        lambda found: f"{shorten(found[1], 80)}: ",
        message,
    )
    message = re.sub(
        r"Not a valid subclass of (\w+) Subclass types expect one of: .*?\(implicit class_path\)",
        r"expected a class path, or keys of \1",
        message,
    )
    message = re.sub(
        r"Expected a typing\.Literal\[([^]]*)\]\. Got value: ",
        lambda found: f"expected {found[1].replace(', ', ' or ')}, found ",
        message,
    )
    for python, plain in PLAIN_TYPES.items():
        message = message.replace(f"Expected a <class '{python}'>", f"expected {plain}")
    message = re.sub(r"(expected [a-z ]+?) (?=expected )", r"\1 or ", message)
    message = message.replace(" or expected ", " or ")
    message = re.sub(r"(expected [a-z ]+)\. Got value: ", r"\1, found ", message)
    return re.sub(
        r", found (None|True|False)\b", lambda found: f", found {YAML_WORDS[found[1]]}", message
    )
