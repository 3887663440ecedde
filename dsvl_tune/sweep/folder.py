"""The folder of a sweep. Imports nothing heavy, so that commands can ask what a folder is."""

from __future__ import annotations

from pathlib import Path

DEFINITION = "sweep.yaml"
"""In the folder of a sweep: what it is."""


def trial_name(number: int) -> str:
    """Name of a trial's run folder inside the folder of the sweep."""
    return f"trial_{number:02d}"


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / DEFINITION).is_file()
