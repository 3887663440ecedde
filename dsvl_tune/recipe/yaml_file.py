"""Reading a recipe's YAML, with one message for whatever is wrong with the file as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.errors import UserError

MAX_BYTES = 10_000_000
"""Largest recipe; the longest that make sense have some kilobytes."""
MAX_DEPTH = 50
"""Deepest nesting; recipes have about ten levels."""
MAX_NODES = 100_000
"""Most values of a recipe once its aliases are followed, which can multiply them without end."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: A recipe, or the `config.yaml` of a run.

    Raises:
        UserError: It cannot be read, is not UTF-8, no YAML or no mapping, gives a key twice, or is
            nested or repeated beyond any recipe.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}: expected keys and their values, as in `model: {{lr: 1e-4}}`.")
        _check_node(path, root, {}, 0)
        settings: dict[str, Any] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-02-31
        raise UserError(f"{path}: no valid YAML ({_problem(error)}).") from error
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a recipe.") from None
    return settings


def _read_text(path: Path) -> str:
    """Read a small UTF-8 file, with or without a byte order mark."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES / 1e6:g} MB, which no recipe is.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start:,}). Save the file in UTF-8."
        ) from error


def _check_node(path: Path, node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Check a value and everything in it; return the number of its values, aliases followed.

    Args:
        path: The file, for the message.
        node: A value as the YAML parser gives it.
        sizes: Sizes of the nodes that are known; those in work have 0.
        depth: Depth of the node.
    """
    if sizes.get(id(node)) == 0:
        raise UserError(f"{path}:{_line(node)}: a value contains itself, through an alias.")
    if depth > MAX_DEPTH:
        raise UserError(f"{path}:{_line(node)}: nested too deeply for a recipe.")
    if id(node) not in sizes:
        sizes[id(node)] = 0
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _check_keys(path, node)
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        size = 1 + sum(_check_node(path, child, sizes, depth + 1) for child in children)
        sizes[id(node)] = size
    if sizes[id(node)] > MAX_NODES:
        raise UserError(
            f"{path}:{_line(node)}: more than {MAX_NODES:,} values, which no recipe has."
        )
    return sizes[id(node)]


def _check_keys(path: Path, node: yaml.MappingNode) -> None:
    """Raise if a mapping gives a key twice: YAML's readers take the later one without a word."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name = str(key.value)
        if name in lines:
            raise UserError(
                f"{path}:{_line(key)}: {name!r} is given twice, first in line {lines[name]}. Keep "
                "one of the two."
            )
        lines[name] = _line(key)


def _line(node: yaml.Node) -> int:
    """Line of a value in its file, from 1."""
    return int(node.start_mark.line) + 1


def _problem(error: Exception) -> str:
    """Say what is wrong, and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{problem}"
