"""Where a run lives: `runs/NAME`, `runs/NAME-2`, ... and which of them, and which checkpoint of it, a command means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.renamed_keys import rename_keys
from dsvl_tune.training.checkpoints.files import FOLDER, LAST, newest_whole, step_of
from dsvl_tune.training.checkpoints.sharded_io import without_shards

RUN_KEYS = ("resume", "time_limit_s", "checkpoint_every_steps")
"""Keys of a recipe that say how a run is run, not what comes of it: they may differ when it is gone on with."""


def numbered(base: Path) -> list[tuple[int, Path]]:
    """The existing folders of a run's name, by number."""
    pattern = re.compile(rf"{re.escape(base.name)}(?:-(\d+))?")
    found = [
        (pattern.fullmatch(path.name), path)
        for path in base.parent.glob(f"{base.name}*")
        if path.is_dir()
    ]
    return sorted((int(match[1] or 1), path) for match, path in found if match)


def new_run_folder(base: Path) -> Path:
    """A folder that does not exist yet, so that no earlier run is written over. It is not made here."""
    existing = numbered(base)
    return base if not existing else base.with_name(f"{base.name}-{existing[-1][0] + 1}")


def place_run(
    base: Path, ckpt_path: str | None, resume: str, recipe: Mapping[str, Any]
) -> tuple[Path, Path | None]:
    """The folder that `fit` trains in, and the checkpoint that it goes on from.

    Args:
        base: folder of a first run of this name. ckpt_path: "last", a file, or None. resume: "auto" or "never".
        recipe: the whole one.
    """
    if ckpt_path == "last":
        return last_run_folder(base)
    if ckpt_path is not None or resume == "never":
        return new_run_folder(base), Path(ckpt_path) if ckpt_path else None
    folder = unfinished_run(base, recipe)
    if folder is None:
        return new_run_folder(base), None
    checkpoint = newest_whole(folder)
    print(
        f"going on with {folder} from {checkpoint.name if checkpoint else 'its beginning'}",
        flush=True,
    )
    return folder, checkpoint


def last_run_folder(base: Path) -> tuple[Path, Path]:
    """The newest run of this name, and its newest whole checkpoint.

    Raises:
        UserError: there is none, or it was stopped before its first checkpoint.
    """
    existing = numbered(base)
    if not existing:
        raise UserError(
            f"--ckpt_path last: there is no run {base} to go on from. Start without --ckpt_path."
        )
    folder = existing[-1][1]
    checkpoint = newest_whole(folder)
    if checkpoint is None:
        raise UserError(
            f"--ckpt_path last: {folder} has no {LAST}: it stopped too early. Start without --ckpt_path."
        )
    return folder, checkpoint


def unfinished_run(base: Path, recipe: Mapping[str, Any]) -> Path | None:
    """The newest run of this name if it was not finished and has this very recipe, else None.

    Going on with it gives, bit for bit, what starting it anew would give. Where only the recipe differs, says in what.
    """
    existing = numbered(base)
    folder = existing[-1][1] if existing else None
    if folder is None or (folder / "summary.json").exists():
        return None
    if not (
        folder / "config.yaml"
    ).is_file():  # killed while it was set up, if there is nothing else in it
        return folder if all(path.name.startswith(".") for path in folder.iterdir()) else None
    written, _ = rename_keys(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    differing = sorted(
        key for key, _ in set(leaves(written)) ^ set(leaves(recipe)) if key not in RUN_KEYS
    )
    if differing:
        print(
            f"{folder} is unfinished, but its recipe differs ({differing[0]}), so a new run is made. "
            "--ckpt_path last goes on with it all the same.",
            flush=True,
        )
        return None
    return folder


def leaves(recipe: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a recipe with its dotted key."""
    if isinstance(recipe, Mapping) and recipe:
        for name, value in recipe.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, repr(recipe)


def existing_run_folder(base: Path, config: Path | None) -> Path | None:
    """The run that a command without training is about, or None.

    Args:
        base: folder that a run of this name would have; its newest run counts.
        config: the first recipe given; if that is the `config.yaml` of a run, it is that run.
    """
    if (
        config is not None
        and config.name == "config.yaml"
        and (config.parent / "manifest.json").is_file()
    ):
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
    if which == "last":
        found = [path for path in [newest_whole(run)] if path]
    else:
        best = best_name(run)
        found = sorted(
            (run / FOLDER).glob(f"{which}*.ckpt"),
            key=lambda path: (path.name == best, step_of(path)),
        )
    if not found:
        kept = ", ".join(sorted(path.name for path in (run / FOLDER).glob("*.ckpt"))) or "none"
        raise UserError(f"--ckpt_path {which}: {run} keeps no such checkpoint. It has: {kept}.")
    return found[-1]


def best_name(run: Path) -> str:
    """The file that the newest whole checkpoint calls the best one: of several kept, the newest need not be."""
    newest = newest_whole(run)
    callbacks = without_shards(newest).get("callbacks", {}) if newest else {}
    return next(
        (
            Path(state["best_model_path"]).name
            for state in callbacks.values()
            if "best_model_path" in state
        ),
        "",
    )
