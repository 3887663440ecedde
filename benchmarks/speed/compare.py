"""dsvl-tune, Hugging Face Trainer with peft, and TRL's SFTTrainer: same rows, same losses, what each costs.

    pip install -c constraints.txt -e '.[speed]'
    python benchmarks/speed/compare.py FOLDER [--rounds 3] [--models vocabulary,proportions] [--sets one,four] [--store]

Writes models and charts into FOLDER (see rig_inputs.py), then runs every contender in a process of its own, one after
the other, round by round. It fails if the losses of two contenders differ by more than 1e-4 in any step. CPU seconds
are user and system time, which other work on the machine disturbs least; ratios are taken within a round, and the
median over the rounds is printed, as Trainer's figure over the contender's: 2.00x is half of what Trainer takes.

An epoch has two steps. What keeps nothing between epochs (every contender but the one with a feature store) does the
same work in every epoch, so its steps after the first stand for the first epoch and for the third. With a store, the
first epoch fills it, and that time is in its figure.
"""

from __future__ import annotations

import argparse
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


def contenders(questions: str, store: bool) -> dict[str, list[str]]:
    """Name -> arguments of step_bench.py. The first one is what the others are held against."""
    ours = ["--contender", "ours", *(["--share-images"] if questions == "four" else [])]
    found = {
        "Trainer + peft": ["--contender", "hf"],
        "TRL": ["--contender", "trl"],
        "dsvl-tune": ours,
    }
    return {**found, "dsvl-tune, store": [*ours, "--feature-cache"]} if store else found


def run(
    model: Path, data: Path, arguments: list[str], batch_size: int, threads: int, scratch: Path
) -> Result:
    """One contender in a fresh process; a store begins empty."""
    steps = EPOCH + 1
    if arguments[-1] == "--feature-cache":
        shutil.rmtree(scratch, ignore_errors=True)
        arguments, steps = [*arguments, str(scratch)], 3 * EPOCH
    command = [
        sys.executable,
        str(Path(__file__).with_name("step_bench.py")),
        "--model",
        str(model),
    ]
    command += [
        "--data",
        str(data),
        "--steps",
        str(steps),
        "--warmup",
        "1",
        "--batch-size",
        str(batch_size),
        *arguments,
    ]
    # libgomp's threads spin while they wait: CPU time that no work is done in
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "3000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("BENCH_JSON ")]
    if len(lines) != 1:
        sys.exit(f"{' '.join(command)} gave no figure ({done.returncode}):\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[0].removeprefix("BENCH_JSON ")))


def check_losses(setting: str, results: dict[str, Result]) -> list[list[str]]:
    """A row of the losses' table for each step; ends the run where two differ.

    Only the steps that all have are compared, all of one epoch and more.
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
    """CPU seconds a step in the first or the third epoch, the warm-up step left out."""
    steps = result["steps"]["cpu_s"]
    kept = steps[2 * EPOCH :] if epoch == 3 and len(steps) == 3 * EPOCH else steps[1 : EPOCH + 1]
    return mean(kept[: EPOCH - 1] if epoch == 1 and len(steps) == 3 * EPOCH else kept)


def summary(setting: str, rounds: list[dict[str, Result]], batch_size: int) -> list[list[str]]:
    """A row for each contender: medians over the rounds, and medians of the ratios within a round."""
    lines = []
    for name in rounds[0]:
        cells = [f"{setting}: {name}"]
        for epoch in (1, 3):
            own = [cpu_a_step(one[name], epoch) / batch_size for one in rounds]
            plain = [cpu_a_step(one["Trainer + peft"], epoch) / batch_size for one in rounds]
            ratios = [trainer / cpu for trainer, cpu in zip(plain, own, strict=True)]
            cells += [f"{median(own):.2f}", f"{median(ratios):.2f}x"]
        peaks = [one[name]["peak_rss_mb"] for one in rounds]
        smaller = [
            one[name]["peak_rss_mb"] / one["Trainer + peft"]["peak_rss_mb"] for one in rounds
        ]
        lines.append([*cells, f"{median(peaks):,.0f}", f"{100 * median(smaller):.0f} %"])
    return lines


def compare(options: argparse.Namespace) -> None:
    """Every setting, round by round; tables at the end, every figure in results.json."""
    folder: Path = options.folder
    if not (folder / "four").exists():
        write_inputs(folder, rows=options.batch_size * EPOCH)
    costs, losses, kept = [], {}, {}
    for model in options.models:
        for questions in options.sets:
            setting = f"{model}, {questions}"
            rounds: list[dict[str, Result]] = []
            for _ in range(options.rounds):
                results = {}
                for name, arguments in contenders(questions, options.store).items():
                    place = (
                        folder / model,
                        folder / questions,
                        arguments,
                        options.batch_size,
                        options.threads,
                    )
                    results[name] = run(*place, folder / "store")
                    print(
                        f"{setting}: {name}: {results[name]['steps']['cpu_s']} CPU s a step",
                        flush=True,
                    )
                losses[setting] = check_losses(setting, results)
                rounds.append(results)
            costs += summary(setting, rounds, options.batch_size)
            kept[setting] = rounds
            (folder / "results.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print(
        f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.threads} threads for each"
    )
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    print(f"batch {options.batch_size}, {options.rounds} rounds\n")
    steps = [step for shown in losses.values() for step in shown]
    print(format_table(["losses", *contenders("one", options.store)], steps))
    head = ["CPU s a sample", "epoch 1", "faster", "epoch 3", "faster", "peak MB", "of Trainer's"]
    print("\n" + format_table(head, costs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(VOCABULARY))
    parser.add_argument("--sets", type=lambda text: text.split(","), default=["one", "four"])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every contender")
    parser.add_argument("--store", action="store_true", help="also dsvl-tune with a feature store")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
