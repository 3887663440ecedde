"""A recipe of a few steps, its runs compared, and commands in processes of their own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from dsvl_tune.cli.commands.fit import main
from dsvl_tune.training.run.metrics_file import METRICS

STEPS = 11
"""Of a run, two micro-batches each; a validation comes after every four of those."""


def write_recipe(folder: Path, checkpoint: Path, **changes: Any) -> Path:
    """A recipe with trees, dropout, schedule, accumulation, a fully trained part, and `changes`."""
    content: dict[str, Any] = {
        "model": {
            "checkpoint": str(checkpoint),
            "lr": 0.002,
            "warmup_steps": 3,
            "lora_dropout": 0.1,
            "max_new_tokens": 3,
            "parts": {"aligner": {"mode": "full"}, "language_model": {"mode": "lora", "rank": 4}},
        },
        "data": {
            "class_path": "dsvl_tune.datamodules.ChartsDataModule",
            "init_args": {
                "train_charts": 9,
                "validation_charts": 2,
                "test_charts": 2,
                "retention_scenes": 0,
                "questions": 3,
                "batch_size": 2,
                "system_prompt": "",
            },
        },
        "trainer": {
            "max_steps": STEPS,
            "max_epochs": -1,
            "val_check_interval": 4,
            "accumulate_grad_batches": 2,
            "log_every_n_steps": 3,
            "enable_progress_bar": False,
            "accelerator": "cpu",
        },
        "run_dir": str(folder / "runs"),
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "run.yaml"


def fit(recipe: Path, *more: str) -> int:
    """`dsvl-tune fit` in this process; its exit code."""
    try:
        main(["--config", str(recipe), *more])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def last(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def results(run: Path) -> dict[str, Any]:
    """Weights, optimizer state, answers, scores and logged values of a finished run, by name."""
    checkpoint = last(run)
    found: dict[str, Any] = {"step": checkpoint["global_step"], **checkpoint["state_dict"]}
    for number, slots in checkpoint["optimizer_states"][0]["state"].items():
        for slot, value in slots.items():
            inner = value if isinstance(value, dict) else {"": value}
            found |= {f"optimizer {number} {slot} {name}": one for name, one in inner.items()}
    for path in (*run.glob("adapter/*"), *run.glob("predictions/*"), run / METRICS):
        found[str(path.relative_to(run))] = path.read_bytes()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for key in ("before", "after", "steps", "best_checkpoint"):
        found[f"summary: {key}"] = summary[key]
    return found


def differences(one: Path, two: Path) -> list[str]:
    """Names of the results of two runs that are not equal, bit for bit."""

    def equal(name: str) -> bool:
        left, right = first.get(name), second.get(name)
        if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
            return left.dtype == right.dtype and torch.equal(left, right)
        return type(left) is type(right) and left == right

    first, second = results(one), results(two)
    return sorted(name for name in first.keys() | second.keys() if not equal(name))


def assert_equal_runs(one: Path, two: Path) -> None:
    assert differences(one, two) == []


class Commands:
    """`dsvl-tune` commands in processes forked from one that has imported everything."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self.server = server
        assert self.ask_answer() == "ready"

    def ask_answer(self, **request: Any) -> Any:
        assert self.server.stdin is not None and self.server.stdout is not None
        if request:
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        folder: Path,
        *arguments: str,
        log: str = "log",
        memory_bytes: int | None = None,
        **environment: str,
    ) -> int:
        """The process of a command in `folder`, whose output goes to a file there."""
        return self.ask_answer(
            start=[arguments, str(folder), str(folder / log), environment, memory_bytes]
        )

    def ends(self, process: int, within_s: float) -> int:
        """Its exit code."""
        deadline = time.monotonic() + within_s
        while (code := self.ask_answer(poll=process)) is None:
            assert time.monotonic() < deadline, (
                f"process {process} has not ended within {within_s} s"
            )
            time.sleep(0.05)
        return code


def wait_for(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def answers_in(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of answers, without the time that each took."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]
