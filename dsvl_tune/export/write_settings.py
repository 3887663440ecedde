"""The files next to the weights of a written checkpoint: settings, license, the base's card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.pickled_weights import PICKLED_INDEX
from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS_INDEX, Stored, read_headers, read_json
from dsvl_tune.core.dtypes import NAMES_IN_FILES
from dsvl_tune.core.family import Layout
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.models.checkpoint.weights import ORIGINAL_FOLDER

BASE_CARD = "README_BASE.md"
"""The base's own model card, whose notices stay with its weights."""

REPORT = "merge_report.json"
"""What `merge` measured, next to the weights."""

NOT_SETTINGS = (WEIGHTS_INDEX, PICKLED_INDEX, REPORT)
"""JSON files next to the weights that another checkpoint has its own of."""


def write_other_files(base: Checkpoint, target: Path, layout: Layout) -> None:
    """Write everything but the weights, the README and the hashes.

    The settings of an original checkpoint are kept in a folder of a checkpoint in transformers'
    layout, and put back as they were when it is written in the original layout again.

    Args:
        base: the checkpoint that the weights were made from.
        target: folder with the weights written.
        layout: that they were written in.
    """
    for path in sorted(base.folder.glob("LICENSE*")):
        copy_license(base, path, target / path.name)
    card = base.folder / "README.md"
    if card.exists() or card.is_symlink():
        base.copy_file(card, target / BASE_CARD)
    original = base.folder if base.layout == "original" else base.folder / ORIGINAL_FOLDER
    dtype = main_dtype(read_headers(target).values())
    if layout == "transformers" and original.is_dir():
        copy_settings(base, original, target / ORIGINAL_FOLDER)
    if layout == "original" and original.is_dir():
        copy_settings(base, original, target)
        base.family.complete_settings(base, target)
        if main_dtype(base.headers.values()) != dtype:
            settings = read_json(original / "config.json")
            set_dtype(settings, dtype)
            write_json(target / "config.json", settings)
    else:
        base.family.write_settings(base, target, layout, dtype)


def copy_license(base: Checkpoint, path: Path, target: Path) -> None:
    """Copy a license of a checkpoint, or a folder of them.

    Raises:
        UserError: a file is a link out of the checkpoint, or no regular file.
    """
    if not path.is_dir() or path.is_symlink():
        base.copy_file(path, target)
        return
    target.mkdir()
    for inner in sorted(path.iterdir()):
        copy_license(base, inner, target / inner.name)


def copy_settings(base: Checkpoint, source: Path, target: Path) -> None:
    """Copy the JSON, jinja and text files of an original checkpoint, byte for byte.

    Args:
        base: the checkpoint.
        source: its folder, or the one in it that keeps the original's settings.
        target: folder to copy to.

    Raises:
        UserError: a file is a link out of the checkpoint, or no regular file.
    """
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.suffix in (".json", ".jinja", ".txt") and path.name not in NOT_SETTINGS:
            base.copy_file(path, target / path.name)


def set_dtype(settings: dict[str, Any], dtype: str) -> None:
    """Write a dtype's name into a config.json of the original layout and into its sections."""
    settings["torch_dtype"] = dtype
    for section in settings.values():
        if isinstance(section, dict) and "torch_dtype" in section:
            section["torch_dtype"] = dtype


def main_dtype(headers: Iterable[Stored]) -> str:
    """The name of the dtype that most of a checkpoint's tensors have."""
    dtypes = [stored.dtype for stored in headers]
    return NAMES_IN_FILES[max(set(dtypes), key=dtypes.count)]
