"""Where a run lives: `runs/NAME`, `runs/NAME-2`, ... and which of them, and which checkpoint of it, a command means."""

from __future__ import annotations

import re
from pathlib import Path

from dsvl_tune.files import standing
from dsvl_tune.schema import UserError

LAST = Path("checkpoints") / "last.ckpt"


def numbered(base: Path) -> list[tuple[int, Path]]:
    """The existing folders of a run's name, by number."""
    pattern = re.compile(rf"{re.escape(base.name)}(?:-(\d+))?")
    found = [(pattern.fullmatch(path.name), path) for path in base.parent.glob(f"{base.name}*") if path.is_dir()]
    return sorted((int(match[1] or 1), path) for match, path in found if match)


def new_run_folder(base: Path) -> Path:
    """A folder that does not exist yet, so that no earlier run is written over. It is not made here."""
    existing = numbered(base)
    return base if not existing else base.with_name(f"{base.name}-{existing[-1][0] + 1}")


def last_run_folder(base: Path) -> Path:
    """The newest run of this name.

    Raises:
        UserError: there is none, or it was stopped before its first checkpoint.
    """
    existing = numbered(base)
    if not existing:
        raise UserError(f"--ckpt_path last: there is no run {base} to go on from. Start without --ckpt_path.")
    folder = existing[-1][1]
    if not standing(folder / LAST).exists():
        raise UserError(f"--ckpt_path last: {folder} has no {LAST}: it stopped too early. Start without --ckpt_path.")
    return folder


def existing_run_folder(base: Path, config: Path | None) -> Path | None:
    """The run that a command without training is about, or None.

    Args:
        base: folder that a run of this name would have; its newest run counts.
        config: the first recipe given; if that is the `config.yaml` of a run, it is that run.
    """
    if config is not None and config.name == "config.yaml" and (config.parent / "manifest.json").is_file():
        return config.parent
    existing = numbered(base)
    return existing[-1][1] if existing else None


def kept_checkpoint(run: Path | None, which: str, base: Path) -> Path:
    """The "best" or the "last" checkpoint that a run keeps.

    Raises:
        UserError: there is no such run, or it keeps no such checkpoint.
    """
    if run is None:
        raise UserError(
            f"--ckpt_path {which}: there is no run {base}. Give --config runs/NAME/config.yaml of a run, or leave "
            "--ckpt_path out to take model.checkpoint as it is."
        )
    found = sorted((run / LAST).parent.glob(f"{which}*.ckpt"), key=lambda path: path.stat().st_mtime)
    if which == "last" and standing(run / LAST).exists():
        return standing(run / LAST)
    if not found:
        kept = ", ".join(sorted(path.name for path in (run / LAST).parent.glob("*.ckpt"))) or "none"
        raise UserError(f"--ckpt_path {which}: {run} keeps no such checkpoint. It has: {kept}.")
    return found[-1]
