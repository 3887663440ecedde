"""Some LoRA steps of one trainer, and their cost, as one line `BENCH_JSON {...}`.

    python benchmarks/speed/step_bench.py --model DIR --data DIR --set charts --steps S
        --warmup W --batch-size B --dtype float32 --workers N
        [--contender ours|hf|trl|swift|llamafactory] [--share-images]
        [--feature-cache DIR]

`--model` is a checkpoint in transformers' layout; `--data` holds SET.openai.jsonl and its images.
Every contender trains the same: rows in file order (starting over after the last), LoRA r 16 alpha
32 on q,k,v,o,gate,up,down of the language model, drawn by name, AdamW at a constant 1e-4, betas 0.9
and 0.999, no weight decay, no dropout, no clipping, no gradient checkpointing.

A sample is a conversation (a row of the file); a step always has B of them. With --share-images,
consecutive conversations of a step that show the same image become one tree. samples_per_s is over
the steps after the warm-up, including loading, and counts every conversation, whatever was shared
or cached. peak_rss_mb is that of the training process over its whole life, cpu_s_per_step is user
and system time of it and its workers. `steps` has wall-clock, CPU, user and system time of each
step.

This file runs in the environments of other trainers too: it imports nothing of dsvl-tune, which
only the contenders do that need it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import time
from dataclasses import dataclass, field
from importlib.metadata import distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
CONTENDERS = ("ours", "hf", "trl", "swift", "llamafactory")
TRAINERS = ("lightning", "trl", "ms-swift", "llamafactory")
PACKAGES = ("torch", "transformers", "peft", "accelerate", *TRAINERS)
RANK, ALPHA, LEARNING_RATE, BETAS = 16, 32, 1e-4, (0.9, 0.999)


@dataclass
class Meter:
    """What a contender records: `mark` when training starts and after each step, and losses."""

    losses: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    user_s: list[float] = field(default_factory=list)
    system_s: list[float] = field(default_factory=list)

    def mark(self) -> None:
        user, system = cpu_seconds()
        self.wall_s.append(time.perf_counter())
        self.user_s.append(user)
        self.system_s.append(system)


def cpu_seconds() -> tuple[float, float]:
    """User and system time of this process and its children, in seconds."""
    own = os.times()  # with those of children that ended
    living = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    user = own.user + own.children_user + sum(times.user for times in living)
    return user, own.system + own.children_system + sum(times.system for times in living)


def draw_adapters(model: torch.nn.Module) -> None:
    """Give all contenders the same adapters: B is 0, A is drawn by the layer's name."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            layer = name[name.index("language_model") : name.index(".lora_A")]
            seed = int.from_bytes(layer.encode(), "big") % 2**31
            bound = parameter.shape[1] ** -0.5  # as peft: kaiming_uniform, a = sqrt(5)
            drawn = torch.empty(parameter.shape).uniform_(
                -bound, bound, generator=torch.Generator().manual_seed(seed)
            )
            parameter.data.copy_(drawn)


def data_file(options: argparse.Namespace) -> Path:
    """Path of the data set."""
    return Path(options.data) / f"{options.set}.openai.jsonl"


def step_rows(rows: int, batch_size: int, step: int) -> range:
    """Rows of a step in file order; the last step of an epoch may be smaller."""
    start = step % -(-rows // batch_size) * batch_size
    return range(start, min(start + batch_size, rows))


def versions() -> str:
    """Releases of those of `PACKAGES` that are installed."""
    installed = {found.name.replace("_", "-"): found.version for found in distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)


def report(options: argparse.Namespace, meter: Meter) -> dict[str, Any]:
    """Figures over the steps after the warm-up."""
    rows = len(data_file(options).read_text(encoding="utf-8").splitlines())
    measured = range(options.warmup, options.steps)
    samples = sum(len(step_rows(rows, options.batch_size, step)) for step in measured)
    assert len(meter.wall_s) == options.steps + 1
    assert len(meter.losses) == options.steps
    seconds = meter.wall_s[-1] - meter.wall_s[options.warmup]
    wall_s, user_s, system_s = (
        [end - start for start, end in pairwise(marks)]
        for marks in (meter.wall_s, meter.user_s, meter.system_s)
    )
    cpu_s = [user + system for user, system in zip(user_s, system_s, strict=True)]
    return {
        "contender": options.contender,
        "packages": versions(),
        "samples_per_s": samples / seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "losses": meter.losses,
        "cpu_s_per_step": statistics.mean(cpu_s[options.warmup :]),
        "steps": {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "user_s": user_s,
            "system_s": system_s,
            "median_cpu_s": statistics.median(cpu_s[options.warmup :]),
        },
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="charts")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--contender", default="ours", choices=CONTENDERS)
    parser.add_argument(
        "--share-images", action="store_true", help="ours only: one tree per image and step"
    )
    parser.add_argument("--feature-cache", type=Path, help="ours only: folder of cached features")
    options = parser.parse_args(arguments)
    if options.contender != "ours" and (options.share_images or options.feature_cache):
        parser.error("--share-images and --feature-cache need --contender ours")
    if options.warmup >= options.steps:
        parser.error("--steps must be more than --warmup")
    return options


def main() -> None:
    """Parse the command line, measure and print."""
    options = parse()
    meter = Meter()
    importlib.import_module(f"contender_{options.contender}").train(options, meter)
    print("BENCH_JSON " + json.dumps(report(options, meter)), flush=True)


if __name__ == "__main__":
    main()
