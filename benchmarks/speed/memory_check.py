"""Compare `estimate-memory` with the memory that training takes, each configuration in a process.

    python benchmarks/speed/memory_check.py FOLDER

FOLDER as compare.py writes it. Measured is the highest resident memory of the process over two
steps of FinetuneModule in Lightning's Trainer (VmHWM, reset when the model is loaded), minus what
it had before the model was built, after a small step had loaded every library. glibc is configured
to return memory at once, as if every tensor were mapped.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rig_inputs import write_model
from torch.utils.data import DataLoader

from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.text_table import format_table
from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.families import open_sizes
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.training.memory.estimate import estimate
from dsvl_tune.training.memory.fake_step import RowShape
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.quiet import quiet_lightning

# checkpoint, preset, dtype, gradient checkpointing, rows, tokens, images, supervised tokens
CONFIGURATIONS: list[tuple[str, str, str, bool, int, int, int, int]] = [
    ("proportions", "lora", "float32", False, 2, 640, 1, 16),
    ("proportions", "lora", "float32", True, 1, 1024, 1, 448),
    ("proportions", "full", "float32", False, 1, 640, 1, 64),
    ("proportions", "align", "float32", False, 1, 640, 1, 64),
    ("proportions", "sft", "float32", False, 1, 768, 1, 192),
    ("vocabulary", "lora", "float32", False, 1, 1024, 1, 448),
    ("vocabulary", "lora", "float32", True, 1, 512, 0, 512),
    ("proportions", "lora", "bfloat16", False, 1, 640, 1, 64),
]
MMAP = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}


def batch_of(shape: RowShape, config: Any) -> Batch:
    """A batch of random tokens: images first, the last tokens supervised."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(10, 300, (shape.rows, shape.tokens), generator=draw)
    visual = (
        shape.images * (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    )
    ids[:, :visual] = config.image_token_id
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, shape.tokens - shape.supervised :] = ids[:, shape.tokens - shape.supervised :]
    images = shape.rows * shape.images
    sizes = {
        "pixel_values": config.vision_config.image_size,
        "high_res_pixel_values": config.high_res_vision_config.image_size,
    }
    vision_inputs = {
        name: torch.randn(images, 3, size, size, generator=draw) for name, size in sizes.items()
    }
    return Batch(
        input_ids=ids,
        labels=labels,
        loss_weights=(labels != IGNORE_INDEX).float(),
        position_ids=torch.arange(shape.tokens).expand_as(ids).clone(),
        segment_ids=torch.zeros_like(ids),
        branch_ids=torch.zeros_like(ids),
        vision_inputs=vision_inputs if images else {},
        image_index=torch.arange(images),
        sources=[""] * shape.rows,
    )


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class ResetPeak(L.Callback):
    """Reset the highest resident memory at the start of training, after loading."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")


def fit(checkpoint: str, preset: Any, dtype: str, checkpointing: bool, shape: RowShape) -> None:
    """Train two steps with FinetuneModule and Lightning's Trainer."""
    module = FinetuneModule(
        checkpoint, preset=preset, dtype=dtype, gradient_checkpointing=checkpointing, lr=1e-5
    )
    batch = batch_of(shape, module.base.config)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ResetPeak()],
        precision="bf16-mixed" if dtype == "bfloat16" else "32-true",
    )
    with quiet_lightning():
        trainer.fit(module, DataLoader([batch] * 2, batch_size=None))  # type: ignore[arg-type]


def measure(number: int, folder: Path) -> None:
    """Print measured and estimated bytes of one configuration as a JSON line."""
    name, preset, dtype, checkpointing, *sizes = CONFIGURATIONS[number]
    shape = RowShape(*sizes)
    fit("embedded", preset, dtype, checkpointing, RowShape(1, 80, 1, 8))  # loads every library
    gc.collect()
    before = memory("VmRSS")
    fit(str(folder / name), preset, dtype, checkpointing, shape)
    measured = memory("VmHWM") - before
    model = create_model(open_sizes(folder / name), DTYPES[dtype], storage="shapes").train()
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, preset, {}), model, set()))
    found = estimate(
        model,
        shape,
        precision="bf16-mixed" if dtype == "bfloat16" else "32-true",
        accumulates=False,
    )
    print(
        "MEMORY "
        + json.dumps([measured, found.total(1, checkpointing), found.step(1, checkpointing)])
    )


def main() -> None:
    """Parse the command line, measure and print."""
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        measure(int(sys.argv[2]), folder)
        return
    for name in dict.fromkeys(configuration[0] for configuration in CONFIGURATIONS):
        write_model(folder, name)
    rows = []
    for number, configuration in enumerate(CONFIGURATIONS):
        command = [sys.executable, __file__, str(folder), str(number)]
        done = subprocess.run(
            command, env={**os.environ, **MMAP}, capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("MEMORY ")]
        if not lines:
            sys.exit(f"{configuration}: {done.stderr[-3000:]}")
        measured, total, step = json.loads(lines[0].removeprefix("MEMORY "))
        cells = [
            f"{total / 1e6:,.0f}",
            f"{measured / 1e6:,.0f}",
            f"{100 * (total / measured - 1):+.1f} %",
        ]
        rows.append([", ".join(map(str, configuration)), f"{step / 1e6:,.0f}", *cells])
        print(rows[-1], flush=True)
    head = [
        "checkpoint, preset, dtype, checkpointing, rows, tokens, images, supervised",
        "the step alone",
    ]
    print("\n" + format_table([*head, "estimated MB", "measured MB", "difference"], rows))


if __name__ == "__main__":
    main()
