"""Part of `gpu.py`: how long a step waits for images that are decoded while it computes."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_ours import Stepper, random_model
from gpu_step import QUESTIONS, TYPES, WARMUP, batch_of, seconds
from lightning.fabric.utilities.apply_func import move_data_to_device
from loader import make_files

from dsvl_tune.datamodules import InstructDataModule

WORKERS = 8
CHECKPOINTS = Path(__file__).parents[2] / "tests" / "golden"
PROCESSORS = {"deepseek_vl": "siglip", "deepseek_vl_hybrid": "hybrid"}
"""Of a family, the golden checkpoint whose images have the published size."""


def loader_of(folder: Path, size: str, workers: int) -> tuple[InstructDataModule, Any]:
    """The loader of a run with one image a step.

    Args:
        folder: with the images and their rows.
        size: of the model.
        workers: that decode images.
    """
    data = InstructDataModule(
        str(folder / "rows.jsonl"),
        validation_rows=0,
        verify_images=False,
        checkpoint=str(CHECKPOINTS / PROCESSORS[TYPES[size]] / "checkpoint"),
        batch_size=1,
        num_workers=workers,
    )
    data.setup("fit")
    return data, data.train_dataloader()


def run(size: str, small: bool, device: torch.device, steps: int) -> dict[str, float]:
    """Seconds that decoding one step's image takes, that a step takes and that it waits: medians.

    The step is that of a tree of four questions, on the loader's pixels.
    """
    workers = 2 if small else WORKERS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, images=2 * workers + WARMUP + steps)
        model = random_model(size, small, folder, device)
        _, alone = loader_of(folder, size, 0)
        rows = iter(alone)
        decode = [seconds(lambda: next(rows), device) for _ in range(WARMUP + steps)]
        data, loader = loader_of(folder, size, workers)
        stepper = Stepper(model, batch_of(model.config, device, QUESTIONS))
        row, waits, times = stepper.batch, [], []
        rows = iter(loader)
        for _ in range(WARMUP + steps):
            since = time.perf_counter()
            batch = next(rows)
            waits.append(time.perf_counter() - since)
            batch = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
            stepper.batch = replace(row, vision_inputs=batch.vision_inputs)
            times.append(seconds(stepper.step, device))
    return {
        "workers": workers,
        "decode_s": statistics.median(decode[WARMUP:]),
        "step_s": statistics.median(times[WARMUP:]),
        "wait_s": statistics.mean(waits[WARMUP:]),
    }
