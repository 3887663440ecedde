"""CPU seconds of a short `fit` on a quiet machine and on a busy one, with workers and processes.

    python benchmarks/speed/busy.py --load 12 --rounds 3

A busy machine is made here: LOAD processes that compute without end, with the same priority, which
are stopped after each run. Quiet and busy runs alternate. The columns are medians: CPU seconds of
the command and its children, wall-clock seconds, and the ratio of CPU seconds, which does not
depend on how much of the machine a run got. The load of the machine before each round is printed,
because other work makes quiet runs busy ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from dsvl_tune.core.text_table import format_table

FIT = [
    *(sys.executable, "-m", "dsvl_tune", "fit", "--config", "charts_lora"),
    *("--data.train_charts", "64", "--data.validation_charts", "4", "--data.test_charts", "4"),
    *("--data.retention_scenes", "0", "--model.reuse_base_answers", "false"),
    *("--trainer.enable_progress_bar", "false"),
]


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Processes that compute while the block runs."""
    running = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def fit(workers: int, processes: int, steps: int) -> tuple[float, float]:
    """CPU and wall-clock seconds of one run, start included."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *("--run_dir", folder, "--trainer.max_steps", str(steps)),
            *("--data.num_workers", str(workers), "--trainer.devices", str(processes)),
            *(("--trainer.strategy", "ddp") if processes > 1 else ()),
        ]
        with (Path(folder) / "log").open("w+") as log:
            since = time.monotonic()
            process = subprocess.Popen([*FIT, *options], stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)  # its children, which it waits for, counted
            wall = time.monotonic() - since
            if status:
                log.seek(0)
                raise SystemExit(log.read())
    return used.ru_utime + used.ru_stime, wall


def main() -> None:
    """Measure every combination in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", type=int, default=12, help="processes that compute beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a run")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    lines = []
    for workers, processes in product(options.workers, options.processes):
        quiet, busy = [], []
        for _ in range(options.rounds):
            print(f"load before the round: {os.getloadavg()[0]:.1f}", flush=True)
            quiet.append(fit(workers, processes, options.steps))
            with load(options.load):
                busy.append(fit(workers, processes, options.steps))
        ratio = statistics.median(b[0] / q[0] for q, b in zip(quiet, busy, strict=True))
        medians = [statistics.median(column) for column in zip(*quiet, strict=True)]
        medians += [statistics.median(column) for column in zip(*busy, strict=True)]
        lines.append(
            [str(workers), str(processes), *(f"{value:.1f}" for value in medians), f"{ratio:.2f}x"]
        )
    header = ["workers", "processes", "quiet CPU s", "wall s", "busy CPU s", "wall s", "CPU ratio"]
    print(format_table(header, lines))


if __name__ == "__main__":
    main()
