"""Cost of training steps of dsvl-tune and of other trainers: same rows, same losses.

    pip install -c constraints.txt -e '.[speed]'
    python benchmarks/speed/compare.py FOLDER [--rounds 3] [--contenders TRL,dsvl-tune]
        [--models vocabulary,proportions] [--sets one,four] [--feature-cache]

Hugging Face Trainer with peft is what the others are compared with. ms-swift and LLaMA-Factory get
environments of their own (see contenders.py), made when they are first named.

Writes models and charts into FOLDER (see rig_models.py and rig_inputs.py), unless they are there,
then runs every contender in a process of its own, one after the other, round by round. It fails if
the losses of two contenders differ by more than 1e-4 in any step.

A step has a batch of conversations, all questions of an image at least: in the set `eight` it has
eight of them. dsvl-tune encodes an image once for all its questions of a step.

CPU seconds are user and system time, which other work on the machine disturbs least. `faster` is
Trainer's figure divided by the contender's, in CPU seconds and in user seconds alone: 2.00x is half
of what Trainer takes. Ratios are taken within a round; their median over the rounds is printed,
with their range. The two ratios differ because the system time of a step is page faults, the
kernel handing out zeroed memory for large temporary tensors. A contender with many such tensors has
much of it, and how much depends on the machine: on its kernel, on the size of its pages, and on how
short of memory it is. User time is the contender's own computing, so its ratio carries over best.

An epoch has two steps. A contender that caches nothing between epochs does the same work in every
epoch, and its steps after the first stand for all of them. With a feature cache (--feature-cache),
the first epoch fills it, and that time is included; the table then has the third epoch too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import mean, median

from contenders import BASELINE, CACHED, CONTENDERS, EPOCH, Result, interpreter, run
from rig_inputs import SETS, write_model, write_set
from rig_models import MODELS

from dsvl_tune.core.text_table import format_table

AGREE = 1e-4
CLOCKS = {"cpu_s": "CPU s", "user_s": "user s"}
"""Clocks of step_bench.py that have columns, and their names there."""

Table = list[list[str]]


def batch_size_of(questions: str, least: int) -> int:
    """Conversations of a step: all of an image at least."""
    return max(least, SETS[questions])


def check_losses(setting: str, results: dict[str, Result]) -> Table:
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


def seconds_a_step(result: Result, epoch: int, clock: str) -> float:
    """Seconds of a clock of step_bench.py per step, in epoch 1 or 3, without the warm-up step."""
    steps = result["steps"][clock]
    kept = steps[2 * EPOCH :] if epoch == 3 and len(steps) == 3 * EPOCH else steps[1 : EPOCH + 1]
    return mean(kept[: EPOCH - 1] if epoch == 1 and len(steps) == 3 * EPOCH else kept)


def epochs_shown(feature_cache: bool) -> dict[int, str]:
    """Epochs of the table, and what precedes their columns' names."""
    return {1: "epoch 1: ", 3: "epoch 3: "} if feature_cache else {1: ""}


def summary(
    setting: str, rounds: list[dict[str, Result]], batch_size: int, epochs: Iterable[int]
) -> Table:
    """A table row per contender: medians over the rounds, of figures and of ratios in a round.

    Ratios have their range over the rounds beside them, and the last column has the machine's load
    average of a minute at the end of each run, the contender's own thread included.
    """
    lines = []
    for name in rounds[0]:
        cells = [f"{setting}: {name}"]
        for epoch, clock in itertools.product(epochs, CLOCKS):
            own, plain = (
                [seconds_a_step(one[each], epoch, clock) for one in rounds]
                for each in (name, BASELINE)
            )
            ratios = [trainer / seconds for trainer, seconds in zip(plain, own, strict=True)]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            cells += [f"{median(own) / batch_size:.2f}", f"{median(ratios):.2f}x {spread}"]
        peaks = [one[name]["peak_rss_mb"] for one in rounds]
        smaller = [one[name]["peak_rss_mb"] / one[BASELINE]["peak_rss_mb"] for one in rounds]
        load = median(one[name]["load"] for one in rounds)
        cells += [f"{median(peaks):,.0f}", f"{100 * median(smaller):.0f} %", f"{load:.1f}"]
        lines.append(cells)
    return lines


def run_round(model: str, questions: str, options: argparse.Namespace) -> dict[str, Result]:
    """Run every contender of a setting once, one after the other."""
    results = {}
    for name in options.contenders:
        results[name] = run(
            name,
            options.folder / model,
            options.folder / questions,
            batch_size_of(questions, options.batch_size),
            options.threads,
            options.folder / "feature_cache",
        )
        results[name]["load"] = os.getloadavg()[0]
        steps = results[name]["steps"]
        seconds = zip(steps["user_s"], steps["system_s"], strict=True)
        shown = ", ".join(f"{user:.2f} + {system:.2f}" for user, system in seconds)
        print(f"{model}, {questions}: {name}: user + system s per step: {shown}", flush=True)
    return results


def compare(options: argparse.Namespace) -> None:
    """Run every setting, round by round; print tables, write all figures to results.json."""
    folder: Path = options.folder
    costs: Table = []
    losses: Table = []
    kept: dict[str, list[dict[str, Result]]] = {}
    for name in options.contenders:
        interpreter(name)  # made before anything is measured
    for model, questions in itertools.product(options.models, options.sets):
        setting = f"{model}, {questions}"
        batch_size = batch_size_of(questions, options.batch_size)
        write_model(folder, model)
        write_set(folder, questions, rows=batch_size * EPOCH)
        kept[setting] = []
        for _ in range(options.rounds):
            results = run_round(model, questions, options)
            steps = check_losses(setting, results)
            kept[setting].append(results)
        losses += steps  # of the last round; the earlier ones were compared alike
        costs += summary(setting, kept[setting], batch_size, epochs_shown(options.feature_cache))
        (folder / "results.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print_tables(options, results, losses, costs)


def processor_name() -> str:
    """The processor's model, from /proc/cpuinfo on Linux; without that, what Python has for it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def print_tables(
    options: argparse.Namespace, results: dict[str, Result], losses: Table, costs: Table
) -> None:
    """Print what was measured, where, and with which packages each contender ran."""
    print(f"\n{processor_name()}, {os.cpu_count()} cores, {options.threads} threads each")
    for packages, group in itertools.groupby(results, lambda name: results[name]["packages"]):
        print(f"{', '.join(group)}: {packages}")
    batches = {batch_size_of(questions, options.batch_size) for questions in options.sets}
    print(f"batch {', '.join(map(str, sorted(batches)))}, {options.rounds} rounds\n")
    print(format_table(["losses", *options.contenders], losses))
    timed = [
        f"{epoch}{column}"
        for epoch in epochs_shown(options.feature_cache).values()
        for clock in CLOCKS.values()
        for column in (clock, f"faster in {clock}")
    ]
    head = ["seconds per sample", *timed, "peak MB", "of Trainer's", "load"]
    print("\n" + format_table(head, costs))


def names(text: str, known: Iterable[str]) -> list[str]:
    """The names of a comma-separated list, each of which must be known."""
    found = text.split(",")
    if unknown := [name for name in found if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}, expected {', '.join(known)}")
    return found


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--models",
        type=partial(names, known=MODELS),
        default=["vocabulary", "proportions"],
        help=f"of {', '.join(MODELS)}",
    )
    parser.add_argument(
        "--sets",
        type=partial(names, known=SETS),
        default=["one", "four"],
        help=f"of {', '.join(SETS)}",
    )
    parser.add_argument(
        "--contenders",
        type=partial(names, known=[*CONTENDERS, "all"]),
        default=["TRL", "dsvl-tune"],
        help=f"of {', '.join(CONTENDERS)}, or all; {BASELINE} always runs",
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every contender")
    parser.add_argument(
        "--feature-cache", action="store_true", help="also dsvl-tune with a feature cache"
    )
    options = parser.parse_args()
    chosen = CONTENDERS if "all" in options.contenders else [BASELINE, *options.contenders]
    options.contenders = [*dict.fromkeys(chosen), *([CACHED] if options.feature_cache else [])]
    compare(options)


if __name__ == "__main__":
    main()
