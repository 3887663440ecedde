"""Small sources of rows, and every way in which a recipe may order them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from dsvl_tune.data.sampling.mixture_schedule import Ramp
from dsvl_tune.datamodules import ConversationDataModule, InstructDataModule, MixtureDataModule

ROWS = {"text": 9, "pictures": 26, "shard0": 5, "shard1": 9, "shard2": 1, "shard3": 7}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixture": {},
    "with replacement": {"with_replacement": ("text", "pictures")},
    "ramp": {"text_ratio": Ramp(1.0, 0.3, steps=4)},
    "homogeneous steps": {
        "text_ratio": Ramp(1.0, 0.3, steps=4, shape="cosine"),
        "homogeneous_steps": True,
    },
    "by length": {"length_grouped": True, "homogeneous_steps": True},
    "streamed mixture": {"text_ratio": Ramp(1.0, 0.3, steps=4)},
}
ORDERS = ("plain", "trees", *MIXTURES, "streamed")


def write_rows(folder: Path) -> Path:
    """Files of rows of different lengths, some with one of six pictures."""
    for i in range(6):
        Image.new("RGB", (20 + i, 30), (40 * i, 9, 9)).save(folder / f"{i}.png")
    for name, count in ROWS.items():
        rows = [
            {"question": f"{name} {'x ' * (i * 7 % 11)}?", "answer": str(i)} for i in range(count)
        ]
        if name == "pictures":
            rows = [{**row, "image": f"{i % 6}.png"} for i, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def make_data(order: str, folder: Path, checkpoint: str, **options: Any) -> ConversationDataModule:
    """The data module that serves the rows in that order."""
    settings = {"checkpoint": checkpoint, "seed": 5, "batch_size": 2, **options}
    names = {"plain": "pictures", "trees": "pictures", "streamed": "shard*"}
    if order in names:
        file = str(folder / f"{names[order]}.jsonl")
        own: dict[str, Any] = {"message_trees": order == "trees", "streaming": order == "streamed"}
        return InstructDataModule(file, validation_rows=0, **own, **settings)
    texts = "shard*" if order == "streamed mixture" else "text"
    sources: dict[str, Any] = {
        name: InstructDataModule(
            str(folder / f"{file}.jsonl"),
            validation_rows=0,
            message_trees=False,
            streaming="*" in file,
        )
        for name, file in (("text", texts), ("pictures", "pictures"))
    }
    return MixtureDataModule(
        sources,
        ratios={"text": 1, "pictures": 1},
        text_only=("text",),
        **MIXTURES[order],
        **settings,
    )
