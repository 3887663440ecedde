"""Cost of dsvl-tune, Hugging Face Trainer with peft, and TRL: same rows, same losses.

    pip install -c constraints.txt -e '.[speed]'
    python benchmarks/speed/compare.py FOLDER [--rounds 3] [--models vocabulary,proportions]
        [--sets one,four] [--feature-cache]

Writes models and charts into FOLDER (see rig_inputs.py), then runs every contender in a process of
its own, one after the other, round by round. It fails if the losses of two contenders differ by
more than 1e-4 in any step. CPU seconds are user and system time, which other work on the machine
disturbs least; ratios are taken within a round, and their median over the rounds is printed as
Trainer's figure divided by the contender's: 2.00x is half of what Trainer takes.

An epoch has two steps. A contender that caches nothing between epochs does the same work in every
epoch, so its steps after the first stand for the first and the third epoch. With a feature cache
(--feature-cache), the first epoch fills it, and that time is included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

from rig_inputs import VOCABULARY, write_inputs

from dsvl_tune.core.text_table import format_table

EPOCH = 2
"""Steps of an epoch."""
AGREE = 1e-4
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "lightning")

Result = dict[str, Any]


def contenders(questions: str, feature_cache: bool) -> dict[str, list[str]]:
    """Name -> arguments of step_bench.py. The others are compared with the first one."""
    ours = ["--contender", "ours", *(["--share-images"] if questions == "four" else [])]
    found = {
        "Trainer + peft": ["--contender", "hf"],
        "TRL": ["--contender", "trl"],
        "dsvl-tune": ours,
    }
    return (
        {**found, "dsvl-tune, feature cache": [*ours, "--feature-cache"]}
        if feature_cache
        else found
    )


def run(
    model: Path, data: Path, arguments: list[str], batch_size: int, threads: int, scratch: Path
) -> Result:
    """Run one contender in a fresh process; a feature cache starts empty."""
    steps = EPOCH + 1
    if arguments[-1] == "--feature-cache":
        shutil.rmtree(scratch, ignore_errors=True)
        arguments, steps = [*arguments, str(scratch)], 3 * EPOCH
    command = [
        sys.executable,
        str(Path(__file__).with_name("step_bench.py")),
        f"--model={model}",
        f"--data={data}",
        f"--steps={steps}",
        "--warmup=1",
        f"--batch-size={batch_size}",
        *arguments,
    ]
    # libgomp's threads spin while they wait, which would count as CPU time.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "3000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("BENCH_JSON ")]
    if len(lines) != 1:
        sys.exit(f"{' '.join(command)} gave no figure ({done.returncode}):\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[0].removeprefix("BENCH_JSON ")))


def check_losses(setting: str, results: dict[str, Result]) -> list[list[str]]:
    """Return a table row of losses for each step; exit if two differ.

    Only the steps that all contenders have are compared: one epoch and more.
    """
    shown = []
    for step, losses in enumerate(
        zip(*(result["losses"] for result in results.values()), strict=False), start=1
    ):
        shown.append([f"{setting}, step {step}", *(f"{loss:.6f}" for loss in losses)])
        if max(losses) - min(losses) > AGREE:
            sys.exit(f"{setting}, step {step}: the losses differ by more than {AGREE}: {losses}")
    return shown


def cpu_a_step(result: Result, epoch: int) -> float:
    """CPU seconds per step in the first or the third epoch, without the warm-up step."""
    steps = result["steps"]["cpu_s"]
    kept = steps[2 * EPOCH :] if epoch == 3 and len(steps) == 3 * EPOCH else steps[1 : EPOCH + 1]
    return mean(kept[: EPOCH - 1] if epoch == 1 and len(steps) == 3 * EPOCH else kept)


def summary(setting: str, rounds: list[dict[str, Result]], batch_size: int) -> list[list[str]]:
    """A table row per contender: medians over the rounds, of figures and of ratios in a round.

    Ratios have their range over the rounds beside them, and the last column has the machine's load
    average of a minute at the end of each run, the contender's own thread included.
    """
    lines = []
    for name in rounds[0]:
        cells = [f"{setting}: {name}"]
        for epoch in (1, 3):
            own = [cpu_a_step(one[name], epoch) / batch_size for one in rounds]
            plain = [cpu_a_step(one["Trainer + peft"], epoch) / batch_size for one in rounds]
            ratios = [trainer / cpu for trainer, cpu in zip(plain, own, strict=True)]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            cells += [f"{median(own):.2f}", f"{median(ratios):.2f}x {spread}"]
        peaks = [one[name]["peak_rss_mb"] for one in rounds]
        smaller = [
            one[name]["peak_rss_mb"] / one["Trainer + peft"]["peak_rss_mb"] for one in rounds
        ]
        load = median(one[name]["load"] for one in rounds)
        cells += [f"{median(peaks):,.0f}", f"{100 * median(smaller):.0f} %", f"{load:.1f}"]
        lines.append(cells)
    return lines


def run_round(model: str, questions: str, options: argparse.Namespace) -> dict[str, Result]:
    """Run every contender of a setting once, one after the other."""
    results = {}
    for name, arguments in contenders(questions, options.feature_cache).items():
        results[name] = run(
            options.folder / model,
            options.folder / questions,
            arguments,
            options.batch_size,
            options.threads,
            options.folder / "feature_cache",
        )
        results[name]["load"] = os.getloadavg()[0]
        steps = results[name]["steps"]["cpu_s"]
        print(f"{model}, {questions}: {name}: {steps} CPU s per step", flush=True)
    return results


def compare(options: argparse.Namespace) -> None:
    """Run every setting, round by round; print tables, write all figures to results.json."""
    folder: Path = options.folder
    if not (folder / "four").exists():
        write_inputs(folder, rows=options.batch_size * EPOCH)
    costs: list[list[str]] = []
    losses: list[list[str]] = []
    kept: dict[str, list[dict[str, Result]]] = {}
    for model, questions in itertools.product(options.models, options.sets):
        setting = f"{model}, {questions}"
        kept[setting] = []
        for _ in range(options.rounds):
            results = run_round(model, questions, options)
            steps = check_losses(setting, results)
            kept[setting].append(results)
        losses += steps  # of the last round; the earlier ones were compared alike
        costs += summary(setting, kept[setting], options.batch_size)
        (folder / "results.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print_tables(options, losses, costs)


def print_tables(
    options: argparse.Namespace, losses: list[list[str]], costs: list[list[str]]
) -> None:
    """Print what was measured, where, and with which packages."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"\n{machine}, {options.threads} threads each")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    print(f"batch {options.batch_size}, {options.rounds} rounds\n")
    print(format_table(["losses", *contenders("one", options.feature_cache)], losses))
    epochs = ["epoch 1", "faster", "epoch 3", "faster"]
    head = ["CPU s per sample", *epochs, "peak MB", "of Trainer's", "load"]
    print("\n" + format_table(head, costs))


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(VOCABULARY))
    parser.add_argument("--sets", type=lambda text: text.split(","), default=["one", "four"])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every contender")
    parser.add_argument(
        "--feature-cache", action="store_true", help="also dsvl-tune with a feature cache"
    )
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
