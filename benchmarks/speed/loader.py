"""Images per second of the data loader at 384 + 1024 px from JPEG and PNG files.

    OMP_NUM_THREADS=1 python benchmarks/speed/loader.py --images 64 --workers 0 1 2 --step_s 0.5

Half of the images are photographs (JPEG, 2000 x 1500 px), half are scanned pages (PNG, 1240 x 1754
px). Every line is a fresh process, and the best of `--rounds`. CPU time is that of all processes;
"main" is that of the training process alone, which a training step cannot use.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKPOINT = Path(__file__).parents[2] / "tests" / "golden" / "hybrid" / "checkpoint"


def make_files(folder: Path, images: int) -> None:
    """Write noisy images, which compress like real ones, and a row for each."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    rows = []
    for i in range(images):
        width, height, ending = (2000, 1500, "jpg") if i % 2 else (1240, 1754, "png")
        coarse = random.integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8)
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        ).astype(int)
        noise = random.integers(-6, 7, smooth.shape) if ending == "jpg" else 0
        level = 1 if ending == "jpg" else 32
        picture = ((smooth + noise).clip(0, 255) // level * level).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.{ending}")
        rows.append({"question": "What?", "answer": "This.", "image": f"{i}.{ending}"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def cpu_s() -> tuple[float, float]:
    """CPU seconds of this process, and of its workers."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


def measure(
    folder: Path, workers: int, batch_size: int, options: dict[str, object]
) -> dict[str, float]:
    """Measure two epochs; the first one warms the caches."""
    from dsvl_tune.datamodules import InstructDataModule

    data = InstructDataModule(
        str(folder / "rows.jsonl"),
        validation_rows=0,
        verify_images=False,
        checkpoint=str(CHECKPOINT),
        batch_size=batch_size,
        num_workers=workers,
        **options,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    found = {}
    for epoch in ("first", "second"):
        since, (main_s, workers_s), images = time.perf_counter(), cpu_s(), 0
        for batch in loader:
            images += len(data.on_after_batch_transfer(batch, 0).image_index)
        wall, (main_after, workers_after) = time.perf_counter() - since, cpu_s()
        spent = main_after - main_s
        found |= {f"{epoch}/images_per_s": images / wall, f"{epoch}/main_ms": 1e3 * spent / images}
        found |= {f"{epoch}/cpu_ms": 1e3 * (spent + workers_after - workers_s) / images}
    return found


def measure_in_process(folder: str, workers: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure in a process of its own: this script again, with --one."""
    command = [
        sys.executable,
        __file__,
        f"--one={folder}",
        f"--workers={workers}",
        f"--batch_size={options.batch_size}",
        f"--options={json.dumps(options.options)}",
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.split("RESULT")[1])
    return found


def print_table(lines: dict[int, list[dict[str, float]]]) -> None:
    """Print the best round of each number of workers and each epoch."""
    print("workers  epoch   images/s  /worker  CPU ms/image  main ms/image")
    for workers, rounds in lines.items():
        for epoch in ("first", "second"):
            best = min(rounds, key=lambda one: one[f"{epoch}/cpu_ms"])
            speed = best[f"{epoch}/images_per_s"]
            cpu_ms, main_ms = best[f"{epoch}/cpu_ms"], best[f"{epoch}/main_ms"]
            each = speed / max(workers, 1)
            print(
                f"{workers:>7}  {epoch:<6}{speed:>10.1f}{each:>9.1f}{cpu_ms:>14.1f}{main_ms:>15.1f}"
            )


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--step_s", type=float, default=0.0, help="duration of a training step, for comparison"
    )
    parser.add_argument(
        "--options", type=json.loads, default={}, help="further keys of the data module, as JSON"
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure every number of workers in turns, and print."""
    options = parse_options()
    if options.one:
        found = measure(options.one, options.workers[0], options.batch_size, options.options)
        print("RESULT", json.dumps(found))
        return
    lines: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), options.images)
        for _ in range(options.rounds):
            for workers in options.workers:
                lines[workers].append(measure_in_process(folder, workers, options))
    print_table(lines)
    if options.step_s:
        rate = options.batch_size / options.step_s
        print(f"a step of {options.step_s:g} s takes {rate:.1f} images/s")


if __name__ == "__main__":
    main()
