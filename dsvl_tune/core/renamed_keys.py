"""Recipe keys and command options that were renamed; the old names work for one more release.

`RENAMED_KEYS` is the only place that knows old names. Recipes, the command line and the
`config.yaml` of unfinished runs are all translated by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

RENAMED_KEYS = {
    "best_by": "monitor",
    "model.feature_store": "model.feature_cache",
    "model.feature_store_gb": "model.feature_cache_gb",
    "model.final_lr_share": "model.min_lr_ratio",
    "model.max_bad_steps": "model.max_nonfinite_steps",
    "data.overlong": "data.on_overflow",
    "data.probe_scenes": "data.retention_scenes",
    "data.probe_tables": "data.retention_tables",
    "data.shares": "data.ratios",
    "data.text_share": "data.text_ratio",
    "data.whole_steps": "data.homogeneous_steps",
}
"""Old key of a recipe -> new key. A key `data.NAME` stands for that argument of any data module,
also of the sources of a mixture."""

RENAMED_OPTIONS = {"learnt": "supervised"}
"""Old option of a command -> new option: estimate-memory."""

LAST_RELEASE = "0.2"
"""The last release that accepts the old names."""

_DATA_MODULE = re.compile(r"data(\.init_args)?(\.sources\.[^.]+(\.init_args)?)*")


def new_key(key: str) -> str | None:
    """Look up the new name of a dotted recipe key.

    Args:
        key: Full dotted key, e.g. `data.init_args.sources.charts.init_args.overlong`.

    Returns:
        The full new key, or None if the key was not renamed.
    """
    owner, _, name = key.rpartition(".")
    section = "data" if _DATA_MODULE.fullmatch(owner) else owner
    renamed = RENAMED_KEYS.get(f"{section}.{name}" if section else name)
    if renamed is None:
        new_owner = new_key(owner) if owner else None  # data.text_share.end
        return f"{new_owner}.{name}" if new_owner else None
    new_name = renamed.rpartition(".")[2]
    return f"{owner}.{new_name}" if owner else new_name


def rename_keys(
    settings: Mapping[str, Any], prefix: str = ""
) -> tuple[dict[str, Any], dict[str, str]]:
    """Replace old keys in a recipe or in a part of one.

    Args:
        settings: Nested mapping, as YAML holds it.
        prefix: Dotted key that `settings` is the value of; empty for a whole recipe.

    Returns:
        The same settings under their new keys, and the full old and new key of each renamed one.
    """
    result: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for key, value in settings.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        replacement = new_key(path)
        if replacement is not None:
            renamed[path] = replacement
            path = replacement
            key = replacement.rpartition(".")[2]
        if isinstance(value, Mapping):
            value, below = rename_keys(value, path)
            renamed |= below
        result[key] = value
    return result, renamed


def rename_arguments(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Replace old keys and options on a command line, also inside `--key '{...}'`.

    Args:
        arguments: The command line without the name of the command.

    Returns:
        The arguments with new names, and the old and new name of each renamed one.
    """
    result: list[str] = []
    renamed: dict[str, str] = {}
    previous = ""
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            replacement = new_key(key) or RENAMED_OPTIONS.get(key)
            if replacement is not None:
                renamed[key] = replacement
                argument = f"--{replacement}{equals}{value}"
            previous = replacement or key
        elif argument.startswith("{") and previous:
            argument, below = _rename_in_text(argument, previous)
            renamed |= below
        result.append(argument)
    return result, renamed


def _rename_in_text(text: str, prefix: str) -> tuple[str, dict[str, str]]:
    """Rename keys in a mapping that is given as text; text that is no mapping stays as it is."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text, {}
    if not isinstance(value, dict):
        return text, {}
    settings, renamed = rename_keys(value, prefix)
    return (json.dumps(settings), renamed) if renamed else (text, {})


def renamed_text(renamed: Mapping[str, str]) -> str:
    """Write the warning about old names, one line each; empty without any."""
    return "\n".join(
        f"warning: {old!r} is now {new!r}; the old name stops working after release {LAST_RELEASE}"
        for old, new in renamed.items()
    )
