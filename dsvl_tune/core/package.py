"""The installed package itself: its version, and the folders that its parts are in."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.2.0"
FOLDER = Path(__file__).resolve().parents[1]
"""Of the package `dsvl_tune`."""


def _roots() -> list[Path]:
    checkout = FOLDER.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "datamodules").is_dir():
        return [FOLDER, checkout]
    return [FOLDER]


ROOTS = _roots()
"""Where modules and recipes are looked for. A wheel has `datamodules/` and `recipes/` below the
package; in a checkout they are at its top, and that folder joins the package's search path, so that
both are found under the same names."""
