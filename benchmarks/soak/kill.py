"""Kill runs at random moments, repeat the command, and compare with an uninterrupted run.

    python benchmarks/soak/kill.py --kills 120

Takes minutes. Every other kill waits until a checkpoint is being written. Each kill prints a line,
and the last line is the verdict; the exit code is 0 only if every run ended with the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import torch
import yaml

CHARTS = {
    "class_path": "dsvl_tune.datamodules.ChartsDataModule",
    "init_args": {
        "train_charts": 23,
        "validation_charts": 2,
        "test_charts": 2,
        "retention_scenes": 1,
        "questions": 3,
    },
}
SCENES = {
    "class_path": "dsvl_tune.datamodules.ScenesDataModule",
    "init_args": {"train_rows": 12, "validation_rows": 2, "test_rows": 2, "retention_tables": 0},
}
MIXTURE = {
    "class_path": "dsvl_tune.datamodules.MixtureDataModule",
    "init_args": {
        "sources": {
            "tables": {**SCENES, "init_args": {**SCENES["init_args"], "text_ratio": 1.0}},
            "charts": CHARTS,
        },
        "ratios": {"tables": 1, "charts": 1},
        "text_only": ["tables"],
        "text_ratio": {"start": 1.0, "end": 0.4, "steps": 12, "shape": "cosine"},
        "homogeneous_steps": True,
        "length_grouped": True,
    },
}
# Data, trainer and number of workers. Every case has shared-prefix trees, dropout, a schedule, and
# a number of steps that is not a multiple of the validation interval.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "charts": (CHARTS, {"max_steps": 26, "accumulate_grad_batches": 2}, 0),
    "workers": (CHARTS, {"max_steps": 26}, 2),
    "mixture": (MIXTURE, {"max_steps": 26, "accumulate_grad_batches": 2}, 2),
    "cache": (CHARTS, {"max_steps": 26, "accumulate_grad_batches": 2}, 1),
    "ddp": (CHARTS, {"max_steps": 26, "devices": 2, "strategy": "ddp"}, 1),
}
CACHE = {"feature_cache": "features"}
"""Model keys of the case "cache": a kill may come while an entry is being written."""


def write_recipe(folder: Path, case: str, checkpoint: Path) -> None:
    """Write the recipe of a case into the folder of its runs."""
    data, trainer, workers = CASES[case]
    common = {"batch_size": 2, "num_workers": workers, "system_prompt": ""}
    content = {
        "model": {
            "checkpoint": str(checkpoint),
            "lr": 0.002,
            "warmup_steps": 3,
            "lora_dropout": 0.1,
            "max_new_tokens": 3,
            "parts": {"aligner": {"mode": "full"}, "language_model": {"mode": "lora", "rank": 4}},
            **(CACHE if case == "cache" else {}),
        },
        "data": {**data, "init_args": {**data["init_args"], **common}},
        "trainer": {
            "max_epochs": -1,
            "val_check_interval": 8,
            "enable_progress_bar": False,
            "accelerator": "cpu",
        }
        | trainer,
        "checkpoint_every_steps": 2,
        "monitor": "val/loss",  # it falls, so that every validation replaces the best checkpoint
    }
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def start(folder: Path) -> tuple[Callable[[], int | None], int]:
    """Start the command in a process group of its own.

    Returns:
        A function that polls its exit code, and the process id.
    """
    command = ["fit", "--config", "run.yaml"]
    if "devices" not in (folder / "run.yaml").read_text(encoding="utf-8"):
        pid = forked.start(command, folder, folder / "log")
        return lambda: forked.poll(pid), pid
    # Lightning starts the second process as a command, so the first one is a command too.
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, forked.SCRIPT, *command],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.poll, process.pid


def victims(pid: int, chance: random.Random) -> tuple[str, Callable[[], None]]:
    """Choose what to kill: mostly all processes (a lost machine), else the first or its child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    if chance.random() < 0.7:
        return "all processes", lambda: os.killpg(pid, signal.SIGKILL)
    if children and chance.random() < 0.5:
        child = int(chance.choice(children))
        return "a child process", lambda: os.kill(child, signal.SIGKILL)
    return "the first process", lambda: os.kill(pid, signal.SIGKILL)


def unfinished(folder: Path) -> set[tuple[str, int]]:
    """Names and times of checkpoints that are, or at the last kill were, being written."""
    checkpoints = folder / "runs" / "run" / "checkpoints"
    found = set()
    for path in (*checkpoints.glob(".*.partial"), checkpoints / "next.ckpt"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def kept_step(folder: Path) -> str:
    """The step from which the next start resumes."""
    for name in ("last", "previous"):
        path = folder / "runs" / "run" / "checkpoints" / f"{name}.ckpt"
        if path.exists():
            return f"{torch.load(path, weights_only=True)['global_step']} ({name})"
    return "none"


def wait_and_kill(folder: Path, longest_s: float, chance: random.Random) -> str | None:
    """Start the command and kill it at a random moment; None if it ended before."""
    left = unfinished(folder)
    poll, pid = start(folder)
    begin = time.monotonic()
    moment = begin + chance.uniform(0, longest_s)
    at_a_save = chance.random() < 0.5
    while time.monotonic() < moment or (at_a_save and not unfinished(folder) - left):
        if (code := poll()) is not None:
            if code != 0:
                raise SystemExit(f"the command ended with {code}: see {folder / 'log'}")
            return None
        time.sleep(0 if at_a_save and time.monotonic() >= moment else 0.005)
    in_save = bool(unfinished(folder) - left)
    who, kill = victims(pid, chance)
    with contextlib.suppress(ProcessLookupError):
        kill()
    after = time.monotonic() - begin
    while (code := poll()) is None:
        time.sleep(0.01)
    if code == 0:
        return None  # the killed process had finished its part
    ended = time.monotonic() - begin - after
    where = ", while saving" if in_save else ""
    moment_text = f"{who} after {after:.2f} s{where}; ended {ended:.1f} s later"
    return f"{moment_text}, kept step {kept_step(folder)}"


def to_the_end(folder: Path) -> float:
    """Run the command without a kill; return its duration in seconds."""
    begin = time.monotonic()
    poll, _ = start(folder)
    while (code := poll()) is None:
        time.sleep(0.05)
    if code != 0:
        raise SystemExit(f"the command ended with {code}: see {folder / 'log'}")
    return time.monotonic() - begin


def differences(whole: Path, killed: Path) -> list[str]:
    """Results of the two runs that are not equal, bit for bit."""
    found = []
    one, two = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed)
    )
    for name in one["state_dict"].keys() | two["state_dict"].keys():
        if not torch.equal(one["state_dict"][name], two["state_dict"][name]):
            found.append(name)
    for number, state in one["optimizer_states"][0]["state"].items():
        for slot, tensor in state.items():
            if not torch.equal(tensor, two["optimizer_states"][0]["state"][number][slot]):
                found.append(f"optimizer {number} {slot}")
    for folder in ("adapter", "predictions"):
        names = sorted({path.name for run in (whole, killed) for path in (run / folder).iterdir()})
        _, differing, missing = filecmp.cmpfiles(
            whole / folder, killed / folder, names, shallow=False
        )
        found += [f"{folder}/{name}" for name in differing + missing]
    summaries = [
        json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in (whole, killed)
    ]
    for key in ("before", "after", "steps", "best_checkpoint"):
        if summaries[0][key] != summaries[1][key]:
            found.append(f"summary {key}: {summaries[0][key]} and {summaries[1][key]}")
    return found


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=120, help="over all cases; the two-process one gets a tenth"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-"))
    checkpoint = build(root)
    kills, sequences, failed = 0, 0, 0
    for case in options.cases:
        write_recipe(root / case / "whole", case, checkpoint)
        longest_s = to_the_end(root / case / "whole")
        print(f"{case}: uninterrupted, {longest_s:.1f} s", flush=True)
        rest = len([one for one in options.cases if one != "ddp"]) or 1
        wanted = options.kills // 10 if case == "ddp" else -(-options.kills * 9 // (10 * rest))
        done = 0
        while done < wanted:
            killed = root / case / f"killed_{sequences}"
            write_recipe(killed, case, checkpoint)
            in_sequence = 0
            while (
                what := wait_and_kill(
                    killed, longest_s if in_sequence < 25 else 2 * longest_s, chance
                )
            ) is not None:
                kills, done, in_sequence = kills + 1, done + 1, in_sequence + 1
                print(f"kill {kills}: {case}, {what}", flush=True)
            found = differences(root / case / "whole" / "runs" / "run", killed / "runs" / "run")
            sequences += 1
            failed += bool(found)
            print(f"{case}: after {in_sequence} kills {found or 'equal'}", flush=True)
    verdict = (
        f"{failed} differ from the uninterrupted run"
        if failed
        else "all equal the uninterrupted run"
    )
    print(f"{kills} kills in {sequences} runs: {verdict}")
    if not failed:
        shutil.rmtree(root)
    sys.exit(bool(failed))


def build(root: Path) -> Path:
    """Build the tiny checkpoint in another process: this one forks and must have no threads."""
    folder = root / "checkpoint"
    tests = str(Path(__file__).parents[2] / "tests")
    lines = [
        "import sys",
        f"sys.path.insert(0, {tests!r})",
        "from pathlib import Path",
        "from conftest import build_checkpoint",
        f"build_checkpoint(Path({str(folder)!r}), 'deepseek_vl_hybrid')",
    ]
    code = "\n".join(lines)
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return folder


if __name__ == "__main__":
    main()
