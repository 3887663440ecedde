"""Run folders: `runs/NAME`, `runs/NAME-2`, ...; which one to resume, and which run checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.dotted_keys import by_dotted_key
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_write
from dsvl_tune.training.checkpoints.files import FOLDER, LAST, newest_whole, step_of
from dsvl_tune.training.checkpoints.sharded_io import without_shards
from dsvl_tune.training.run.inputs import read_manifest
from dsvl_tune.training.run.lock import was_killed

CONFIG = "config.yaml"
"""The full settings of a run, in its folder."""
SUMMARY = "summary.json"
"""The result of a run, in its folder; only a finished run has one."""

MAY_DIFFER = ("resume", "time_limit_s", "checkpoint_every_steps")
"""Settings that do not change what a run computes: they may differ when it is resumed."""

Settings = dict[str, Any]


def place_run(
    first: Path,
    *,
    ckpt_path: str | None,
    resume: str,
    settings: Mapping[str, Any],
    read_settings: Callable[[Path], Settings],
) -> tuple[Path, Path | None]:
    """Choose the folder that a run trains in, and the run checkpoint that it starts from.

    Args:
        first: Folder of the first run of this name.
        ckpt_path: "last", a file, or None.
        resume: "auto" resumes the newest run of this name if it is unfinished and has the same
            settings; "never" always starts a new run.
        settings: Full settings of this run.
        read_settings: Reads the full settings of a run from its `config.yaml`.

    Returns:
        The folder, which need not exist, and a run checkpoint; None starts at the first step. A
        folder with a summary is that of a run whose process was killed when it had finished.

    Raises:
        UserError: `ckpt_path` is "last" and there is nothing to resume.
    """
    if ckpt_path == "last":
        return _newest_run(first)
    if ckpt_path is not None:
        return _new_folder(first), Path(ckpt_path)
    folder = _unfinished_run(first, settings, read_settings) if resume == "auto" else None
    if folder is None:
        return _new_folder(first), None
    if (folder / SUMMARY).exists():
        return folder, None
    checkpoint = newest_whole(folder, read_manifest(folder).get("run"))
    start = f"from {checkpoint.name}" if checkpoint else "from its beginning"
    print(f"resuming {folder} {start}", flush=True)
    return folder, checkpoint


def write_settings(run_folder: Path, settings: Mapping[str, Any]) -> None:
    """Write `config.yaml`, which repeats the run.

    Args:
        run_folder: Folder of the run.
        settings: Full settings of the run.
    """
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    atomic_write(run_folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def run_of(config: Path | None, first: Path) -> Path | None:
    """Find the run that a command without training is about.

    Args:
        config: The first recipe that was given. The `config.yaml` of a run means that run.
        first: Folder of the first run of the recipe's name; else the newest run of this name.

    Returns:
        The folder of the run, or None.
    """
    is_config = config is not None and config.name == CONFIG
    if config and is_config and (config.parent / "manifest.json").is_file():
        return config.parent
    existing = _runs_by_number(first)
    return existing[-1] if existing else None


def checkpoint_to_evaluate(ckpt_path: str | None, run: Path | None, first: Path) -> Path | None:
    """Find the run checkpoint that a command without training evaluates.

    Args:
        ckpt_path: "best", "last", a file, or None for the weights of the base checkpoint.
        run: Folder of the run, or None if there is none.
        first: Folder of the first run of the recipe's name, for the message.

    Raises:
        UserError: There is no such run, or no such run checkpoint.
    """
    if ckpt_path is None:
        return None
    if ckpt_path in ("best", "last"):
        if run is None:
            raise UserError(
                f"--ckpt_path {ckpt_path}: there is no run {first}. Give --config "
                "runs/NAME/config.yaml of a run, or leave --ckpt_path out to use model.checkpoint "
                "as it is."
            )
        return find_checkpoint(run, ckpt_path)
    if not Path(ckpt_path).exists():
        raise UserError(
            f"--ckpt_path {ckpt_path}: no such file. Give a run checkpoint, or best or last."
        )
    return Path(ckpt_path)


def find_checkpoint(run: Path, which: str) -> Path:
    """Find the best or the last run checkpoint.

    Args:
        run: Folder of the run.
        which: "best" or "last".

    Raises:
        UserError: The run keeps no such run checkpoint.
    """
    found = (
        newest_whole(run, read_manifest(run).get("run"))
        if which == "last"
        else _best_checkpoint(run)
    )
    if found is None:
        saved = sorted(path.name for path in (run / FOLDER).glob("*.ckpt"))
        raise UserError(f"{run}: no {which} run checkpoint. It has: {', '.join(saved) or 'none'}.")
    return found


def _runs_by_number(first: Path) -> list[Path]:
    """List the existing folders of a run's name, NAME, NAME-2, ..., by number."""
    pattern = re.compile(rf"{re.escape(first.name)}(?:-(\d+))?")
    numbered = []
    for path in first.parent.glob(f"{first.name}*"):
        match = pattern.fullmatch(path.name)
        if match and path.is_dir():
            numbered.append((int(match[1] or 1), path))
    return [path for _, path in sorted(numbered)]


def _new_folder(first: Path) -> Path:
    """Name a folder that does not exist yet, so that no earlier run is overwritten."""
    existing = _runs_by_number(first)
    if not existing:
        return first
    number = existing[-1].name.removeprefix(first.name).removeprefix("-")
    return first.with_name(f"{first.name}-{int(number or 1) + 1}")


def _newest_run(first: Path) -> tuple[Path, Path]:
    """Find the newest run of a name and its newest run checkpoint, for `--ckpt_path last`."""
    existing = _runs_by_number(first)
    if not existing:
        raise UserError(
            f"--ckpt_path last: there is no run {first} to resume. Start without --ckpt_path."
        )
    folder = existing[-1]
    checkpoint = newest_whole(folder, read_manifest(folder).get("run"))
    if checkpoint is None:
        raise UserError(
            f"--ckpt_path last: {folder} has no {LAST}: it stopped too early. Start without "
            "--ckpt_path."
        )
    return folder, checkpoint


def _unfinished_run(
    first: Path, settings: Mapping[str, Any], read_settings: Callable[[Path], Settings]
) -> Path | None:
    """Find the newest run of a name if it is unfinished and has the same settings.

    If only its settings differ, the first difference is printed. A run whose process was killed
    after its last step counts as well: nobody was told that it is finished.
    """
    existing = _runs_by_number(first)
    if not existing:
        return None
    folder = existing[-1]
    finished = (folder / SUMMARY).exists()
    if finished and not was_killed(folder):
        return None
    if not (folder / CONFIG).is_file():
        # Killed during set-up, if it holds nothing but the lock and other hidden files.
        return folder if all(path.name.startswith(".") for path in folder.iterdir()) else None
    try:
        own_settings = read_settings(folder / CONFIG)
    except Exception as error:  # any: the file may be anything
        print(
            f"{folder} is unfinished, but its recipe cannot be read ({UserError(str(error))}): "
            "starting a new run. Remove the folder if its run checkpoints are of no use.",
            flush=True,
        )
        return None
    differing = _differing_keys(own_settings, settings)
    if differing and finished:
        return None
    if differing:
        print(
            f"{folder} is unfinished, but its recipe differs ({differing[0]}): starting a new run. "
            "To resume it all the same, give --ckpt_path last.",
            flush=True,
        )
        return None
    return folder


def _differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """List the dotted keys whose values differ between two settings, in alphabetical order."""
    values, other_values = by_dotted_key(one), by_dotted_key(other)
    missing = object()
    differing = []
    for key in sorted(values.keys() | other_values.keys()):
        same = values.get(key, missing) == other_values.get(key, missing)
        if not same and key not in MAY_DIFFER:
            differing.append(key)
    return differing


def _best_checkpoint(run: Path) -> Path | None:
    """Find the best run checkpoint: the one that the last one calls the best, else the newest.

    Of several that are kept, the newest need not be the best.
    """
    kept = sorted((run / FOLDER).glob("best*.ckpt"), key=step_of)
    newest = newest_whole(run)
    callbacks = without_shards(newest).get("callbacks", {}) if newest else {}
    for state in callbacks.values():
        best = run / FOLDER / Path(state.get("best_model_path", "")).name
        if best in kept:
            return best
    return kept[-1] if kept else None
