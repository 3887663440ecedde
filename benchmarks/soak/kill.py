"""Kill runs at random moments, repeat the command, and compare with an uninterrupted run.

    python benchmarks/soak/kill.py --kills 120

Takes minutes. Every other kill waits until a checkpoint is being written. Each kill prints a line,
and the last line is the verdict; the exit code is 0 only if every run ended with the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
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

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import forked_commands
from runs import differences, write_recipe

TESTS = Path(__file__).parents[2] / "tests"

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
TWO_PROCESSES = {"devices": 2, "strategy": "ddp"}
# Data, trainer and number of workers. Every case has shared-prefix trees, dropout, a schedule, and
# a number of steps that is not a multiple of the validation interval.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "charts": (CHARTS, {"max_steps": 26, "accumulate_grad_batches": 2}, 0),
    "workers": (CHARTS, {"max_steps": 26, "accumulate_grad_batches": 1}, 2),
    "mixture": (MIXTURE, {"max_steps": 26, "accumulate_grad_batches": 2}, 2),
    "cache": (CHARTS, {"max_steps": 26, "accumulate_grad_batches": 2}, 1),
    "ddp": (CHARTS, {"max_steps": 26, "accumulate_grad_batches": 1, **TWO_PROCESSES}, 1),
}
CACHE = {"model__feature_cache": "features"}
"""Of the case "cache": a kill may come while an entry is being written."""


def write_case(folder: Path, case: str, checkpoint: Path) -> None:
    """Write the recipe of a case into the folder of its runs."""
    data, trainer, workers = CASES[case]
    common = {"batch_size": 2, "num_workers": workers, "system_prompt": ""}
    folder.parent.mkdir(exist_ok=True)
    write_recipe(
        folder,
        checkpoint,
        **(CACHE if case == "cache" else {}),
        **{f"trainer__{key}": value for key, value in trainer.items()},
        trainer__val_check_interval=8,
        data={**data, "init_args": {**data["init_args"], **common}},
        checkpoint_every_steps=2,
        monitor="val/loss",  # it falls, so that every validation replaces the best checkpoint
    )


def start(folder: Path) -> tuple[Callable[[], int | None], int]:
    """Start the command in a process group of its own.

    Returns:
        A function that polls its exit code, and the process id.
    """
    command = ["fit", "--config", "run.yaml"]
    if "devices" not in (folder / "run.yaml").read_text(encoding="utf-8"):
        pid = forked_commands.start(command, folder, folder / "log")
        return lambda: forked_commands.poll(pid), pid
    # Lightning starts the second process as a command, so the first one is a command too.
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, forked_commands.SCRIPT, *command],
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


def kill_run(
    whole: Path, killed: Path, case: str, longest_s: float, chance: random.Random
) -> tuple[int, bool]:
    """Kill a run and repeat its command until it ends; compare it with the whole run.

    Args:
        whole: folder of the uninterrupted run.
        killed: folder with the recipe of the run to kill.
        case: for the lines that are printed.
        longest_s: duration of the uninterrupted run, in seconds; after 25 kills twice as long.
        chance: of the moments.

    Returns:
        Number of kills, and whether the results are equal.
    """
    kills = 0
    while what := wait_and_kill(killed, longest_s if kills < 25 else 2 * longest_s, chance):
        kills += 1
        print(f"{case}: kill {kills}, {what}", flush=True)
    found = differences(whole / "runs" / "run", killed / "runs" / "run")
    print(f"{case}: after {kills} kills {found or 'equal'}", flush=True)
    return kills, not found


def kill_case(
    root: Path, case: str, checkpoint: Path, wanted: int, chance: random.Random
) -> tuple[int, list[bool]]:
    """Kill runs of a case until there were `wanted` kills.

    Returns:
        Number of kills, and of each run whether it equals the uninterrupted one.
    """
    whole = root / case / "whole"
    write_case(whole, case, checkpoint)
    longest_s = to_the_end(whole)
    print(f"{case}: uninterrupted, {longest_s:.1f} s", flush=True)
    done, equal = 0, []
    while done < wanted:
        killed = root / case / f"killed_{len(equal)}"
        write_case(killed, case, checkpoint)
        kills, is_equal = kill_run(whole, killed, case, longest_s, chance)
        done += kills
        equal.append(is_equal)
    return done, equal


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=120, help="over all cases; the two-process one gets a tenth"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    return parser.parse_args()


def main() -> None:
    """Kill, compare and print the verdict."""
    options = parse_options()
    chance = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-"))
    checkpoint = build(root)
    one_process = sum(case != "ddp" for case in options.cases) or 1
    kills, equal = 0, []
    for case in options.cases:
        share = -(-options.kills * 9 // (10 * one_process))
        wanted = options.kills // 10 if case == "ddp" else share
        done, found = kill_case(root, case, checkpoint, wanted, chance)
        kills += done
        equal += found
    failed = equal.count(False)
    verdict = f"{failed} differ from" if failed else "all equal"
    print(f"{kills} kills in {len(equal)} runs: {verdict} the uninterrupted run")
    if not failed:
        shutil.rmtree(root)
    sys.exit(bool(failed))


def build(root: Path) -> Path:
    """Build the tiny checkpoint in another process: this one forks and must have no threads."""
    folder = root / "checkpoint"
    lines = [
        "import sys",
        f"sys.path.insert(0, {str(TESTS)!r})",
        "from pathlib import Path",
        "from conftest import build_checkpoint",
        f"build_checkpoint(Path({str(folder)!r}), model_type='deepseek_vl_hybrid')",
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
