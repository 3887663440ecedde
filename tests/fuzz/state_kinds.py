"""Crafted run checkpoints: intact files whose state of the run is not what a run writes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from damage import VALUES, places
from frame import Case, Kind
from shard_kinds import small

from dsvl_tune.api import fit
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.training.checkpoints.files import LAST
from dsvl_tune.training.module import FinetuneModule

MODEL = Path(__file__).parents[1] / "golden" / "siglip" / "checkpoint"
SAVED_STEP, STEPS = 2, 3
STATES = ("callbacks", "loops", "lr_schedulers", "optimizer_states")
ODD: list[Any] = [
    *(value for value in VALUES if small(value)),
    *(-7, 1 << 40, 1 << 63, 1e-320, float("-inf"), [-1.0], [float("nan")], (1, 2), {1: 2}),
    *("../../outside", "/etc/hostname", {"lr": 1.0}, {"total": {"ready": -1}}),
    torch.tensor(-3.0),
    torch.tensor(float("nan")),
    torch.tensor(1 << 40),
    torch.tensor([1, 2, 3]),
    torch.zeros(1).expand(1 << 40, 2),
    torch.zeros(3, 3).to_sparse(),
    torch.zeros(2, dtype=torch.complex64),
    torch.empty(2, device="meta"),
]
"""What a value of a state is replaced with, besides its own multiples."""
FOREIGN = [
    "optimizer",
    "reset",
    "step",
    "load_state_dict",
    "x",
    "__class__",
    "",
    "lr",
    7,
    "dirpath",
]
"""Keys that no state has, or that states of another kind have."""


def resume(
    folder: Path, steps: int, checkpoint: Path | None = None, validate_every: int = 1
) -> Path:
    """Train a tiny model for some steps, from the start or from a checkpoint; the run's folder."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        row = {"question": "1 + 1?", "answer": "2"}
        rows.write_text("".join(json.dumps({**row, "id": n}) + "\n" for n in range(6)))
    data = InstructDataModule(
        *[str(rows)] * 3, checkpoint=str(MODEL), num_workers=0, batch_size=2, system_prompt=""
    )
    model = FinetuneModule(str(MODEL), lr=1e-3, warmup_steps=1, max_new_tokens=1)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run = fit(
            model,
            data,
            run_dir=folder / "runs",
            ckpt_path=checkpoint,
            settings={"run_name": "fit"},  # those of the recipe take longer than the training
            max_steps=steps,
            val_check_interval=validate_every,
            log_every_n_steps=steps + 1,  # nothing for the report to draw
            **quiet,
        )
    return run.folder


@cache
def saved_state() -> dict[str, Any]:
    """The last checkpoint of a run, whose schedule is that of a longer one."""
    with TemporaryDirectory() as folder:
        run = resume(Path(folder), SAVED_STEP)
        state: dict[str, Any] = torch.load(run / LAST, weights_only=True)
    return state


def crafted_state(chance: Random) -> dict[str, Any]:
    """The checkpoint with some values of its state replaced, renamed, removed or added."""
    state = copy.deepcopy(saved_state())
    for _ in range(chance.choice((1, 1, 1, 2))):
        others = [key for key in state if key not in (*STATES, "state_dict")]
        key = chance.choice([*STATES, *STATES, chance.choice(others)])
        paths = [(key, *path) for path in places(state[key])] if key in state else []
        if not paths:
            continue
        path = chance.choice(paths)
        inner: Any = state
        for step in path[:-1]:
            inner = inner[step]
        change(inner, path[-1], chance)
    return state


def change(inner: Any, key: Any, chance: Random) -> None:
    """Replace, remove, rename or add a value of a mapping or list, in place."""
    way = chance.random()
    if way < 0.65:
        inner[key] = other_value(inner[key], chance)
    elif way < 0.75:
        del inner[key]
    elif isinstance(inner, dict):
        name = chance.choice(FOREIGN)
        inner[name] = inner.pop(key) if way < 0.85 else chance.choice(ODD)
    else:
        inner.append(chance.choice(ODD))


def other_value(value: Any, chance: Random) -> Any:
    """Another value: often of the same type, so that only its size or sign is odd."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and chance.random() < 0.5:
        return type(value)(chance.choice((-1, -value, value + 1, value * 1000, 1 << 52)))
    if isinstance(value, torch.Tensor) and value.is_floating_point() and chance.random() < 0.5:
        return chance.choice((-value, value * float("nan"), value[..., None], value.double()))
    return chance.choice(ODD)


def crafted_states(folder: Path, chance: Random) -> Case:
    """A run goes on from a crafted checkpoint: to its end, or to one message."""
    state = crafted_state(chance)
    checkpoint = folder / "last.ckpt"
    outside = folder / "outside"
    outside.write_text("kept")
    torch.save(state, checkpoint)
    out = folder.parent / "out"
    validate_every = chance.choice((1, 100, 100))  # the report of a validation takes longest

    def act() -> object:
        run = resume(out, STEPS, checkpoint, validate_every)
        return json.loads((run / "summary.json").read_text(encoding="utf-8"))

    def check(summary: object) -> None:
        assert isinstance(summary, dict)
        assert summary["steps"] == STEPS, summary["steps"]

    return Case(act, check)


STATE_KINDS: dict[str, Kind] = {"crafted_states": crafted_states}
"""Kind of crafted state -> what makes it."""
