"""A LoRA step of the published sizes on one GPU: speed, share of the card's rate, memory, goals.

    python benchmarks/gpu.py              # 1.3B, then 7B, whatever fits
    python benchmarks/gpu.py --sizes 7B --steps 20
    python benchmarks/gpu.py --try        # a small model on the CPU, to try the script

Weights are random, of full size, in bfloat16; adapters r 16 on the language model's seven linear
layers. A row has 1,024 tokens, 576 of them of an image: alone, or as a tree of four questions about
that image, whose tokens are then counted as in four rows. Each line is a median over the steps
after two of warm-up, in a process of its own for each software, in the order of the table:

- tokens/s: of rows as they would be alone;
- MFU: FLOPs of the step that `estimate-memory` runs, by time and by the rate of one large bfloat16
  product on this card; "decoder MFU" those of the decoder's forward and backward pass;
- towers, decoder, head, optimizer: their shares of the time;
- peak: the allocator's, and next to it what `estimate-memory` says.

"waiting" is what a step waits for the next image with 8 workers, and "decode" what one worker takes
for it. Hugging Face's Trainer with peft trains the same row; so it does in a process that unsloth
has changed, and with the adapters of ms-swift, where these are installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from operator import ge, le
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.append(str(Path(__file__).parent / "speed"))
import gpu_data
import gpu_ours
import gpu_trainer
from gpu_step import TYPES, Figures, matmul_rate, reset_peak

from dsvl_tune.core.text_table import format_table

NO_CARD = (
    "benchmarks/gpu.py: skipped, nothing was measured: it needs a CUDA device with bfloat16 and a "
    "torch built for CUDA (here: torch {torch}, {devices} CUDA devices). `--try` runs it in "
    "small on the CPU."
)
OURS, DATA = "dsvl-tune", "data"
LEAST_SHARE = 0.45
MOST_WAITING = 0.01
MOST_ERROR = 0.10
GOAL_SIZE = "7B"
SECONDS = 600
"""After which a process is given up: all of it shall take 25 minutes."""


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        size: of the model.
        name: of the step.
        figures: measured; None where they are not.
        note: why not.
    """

    size: str
    name: str
    figures: Figures | None
    note: str = ""


def measure(size: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one software, in this process."""
    device = torch.device("cpu" if options.small else "cuda")
    if what == DATA:
        return gpu_data.run(size, options.small, device, options.steps)
    if what == OURS:
        found = gpu_ours.run(size, options.small, device, options.steps)
    else:
        found = gpu_trainer.run(size, options.small, device, options.steps, what)
    return {name: figures._asdict() for name, figures in found.items()}


def measured(size: str, what: str, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """`measure` in a process of its own, or {} and the last line of what went wrong there."""
    command = [sys.executable, __file__, "--one", size, what, f"--steps={options.steps}"]
    if options.small:
        command.append("--try")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"given up after {SECONDS} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {}, lines[-1]
    found: dict[str, Any] = json.loads(done.stdout.rpartition("FIGURES ")[2])
    return found, ""


def steps_of(size: str, options: argparse.Namespace) -> Iterator[Line]:
    """Every line of a size: ours, then the Trainer's, then that of other software."""
    for what in (OURS, *gpu_trainer.SOFTWARE):
        module = gpu_trainer.SOFTWARE.get(what)
        if module and find_spec(module) is None:
            yield Line(size, what, None, "not installed")
            continue
        found, error = measured(size, what, options)
        for name, figures in found.items():
            yield Line(size, name, Figures(**figures))
        if error:
            yield Line(size, what, None, f"failed: {error[:120]}")


HEADER = [
    *("size", "step", "tokens/s", "MFU", "decoder MFU", "step ms", "towers ms", "decoder ms"),
    *("head ms", "optimizer ms", "peak GB", "estimate GB"),
]


def cells(line: Line, rate: float) -> list[str]:
    """A line of the table.

    Args:
        line: measured.
        rate: FLOPs per second of the card.
    """
    figures = line.figures
    assert figures is not None
    pieces = (figures.towers_s, figures.decoder_s, figures.head_s, figures.optimizer_s)
    return [
        line.size,
        line.name,
        f"{figures.tokens / figures.step_s:,.0f}",
        shown(figures.flops / figures.step_s / rate, ".0%"),
        shown(decoder_share(figures, rate), ".0%"),
        f"{1000 * figures.step_s:.0f}",
        *(shown(1000 * piece, ".1f") for piece in pieces),
        shown(figures.memory_bytes / 1e9, ".1f"),
        shown(figures.estimate_bytes / 1e9, ".1f"),
    ]


def shown(value: float, form: str) -> str:
    """A number, or a dash where it is not known."""
    return format(value, form) if value else "-"


def decoder_share(figures: Figures, rate: float) -> float:
    """Of the card's rate, in the decoder's two passes; 0 where it is not known."""
    return figures.decoder_flops / figures.decoder_s / rate if figures.decoder_s > 0 else 0.0


def goals(lines: list[Line], data: dict[str, dict[str, float]], rate: float) -> list[list[str]]:
    """Each goal, what was found, and whether it is met.

    Args:
        lines: of the table.
        data: of each size what `gpu_data.run` found.
        rate: FLOPs per second of the card.
    """
    ours = [line for line in lines if line.figures is not None and line.figures.flops]
    shares = [
        decoder_share(line.figures, rate)
        for line in ours
        if line.figures is not None and line.size == GOAL_SIZE
    ]
    waits = [one["wait_s"] / (one["wait_s"] + one["step_s"]) for one in data.values()]
    errors = [
        abs(line.figures.memory_bytes / line.figures.estimate_bytes - 1)
        for line in ours
        if line.figures is not None and line.figures.memory_bytes
    ]
    rows = [
        (f"decoder MFU of the {GOAL_SIZE}, best line", ge, LEAST_SHARE, max(shares, default=None)),
        ("waiting for data, share of the time", le, MOST_WAITING, max(waits, default=None)),
        ("peak memory off the estimate", le, MOST_ERROR, max(errors, default=None)),
    ]
    table = []
    for name, is_met, bound, found in rows:
        limit = f"{'at least' if is_met is ge else 'at most'} {bound:.0%}"
        if found is None:
            table.append([name, limit, "-", "not measured"])
        else:
            verdict = "met" if is_met(found, bound) else "not met"
            table.append([name, limit, f"{found:.1%}", verdict])
    return table


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--steps", type=int, default=10, help="steps of each line")
    parser.add_argument("--try", action="store_true", dest="small", help="small, on the CPU")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # of the processes
    return parser.parse_args()


def main() -> None:
    """Measure what fits, and print one table."""
    options = parse_options()
    if options.one:
        print("FIGURES " + json.dumps(measure(*options.one, options)))
        return
    if not options.small and not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()):
        print(NO_CARD.format(torch=torch.__version__, devices=torch.cuda.device_count()))
        return
    device = torch.device("cpu" if options.small else "cuda")
    name = "this CPU" if options.small else torch.cuda.get_device_name()
    rate = matmul_rate(device)
    reset_peak(device)  # the card is for the processes below
    print(f"{name}, torch {torch.__version__}: {rate / 1e12:,.1f} TFLOP/s in a bfloat16 product")
    lines = [line for size in options.sizes for line in steps_of(size, options)]
    data = {}
    for size in options.sizes:
        found, error = measured(size, DATA, options)
        if error:
            print(f"{size}, data: failed: {error}")
        else:
            data[size] = found
    print(format_table(HEADER, [cells(line, rate) for line in lines if line.figures]))
    for line in lines:
        if line.figures is None:
            print(f"{line.size}, {line.name}: {line.note}")
    for size, one in data.items():
        print(
            f"{size}: decode {1000 * one['decode_s']:.0f} ms an image in one worker, waiting "
            f"{1000 * one['wait_s']:.1f} ms a step with {one['workers']} workers"
        )
    print(format_table(["goal", "bound", "found", "verdict"], goals(lines, data, rate)))
    kept = [
        {**line._asdict(), "figures": line.figures and line.figures._asdict()} for line in lines
    ]
    print("BENCH_JSON " + json.dumps({"rate": rate, "lines": kept, "data": data}))


if __name__ == "__main__":
    main()
