"""Runs whose micro-batches are packed train, validate and report as those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from quiet_trainer import quiet_trainer
from reference import assert_trained_alike

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Batch
from dsvl_tune.datamodules import InstructDataModule, MixtureDataModule
from dsvl_tune.training.module import FinetuneModule


class Logged(FinetuneModule):
    """Keeps what is logged, and the shapes of the batches that a step and a validation saw."""

    logged: list[tuple[str, float]]
    shapes: list[tuple[int, ...]]

    def log(self, name: str, value: Any, **options: Any) -> None:  # type: ignore[override]
        self.logged.append((name, float(value)))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.shapes.append(tuple(batch.input_ids.shape))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, Batch):
            self.shapes.append(tuple(batch.input_ids.shape))
            super().validation_step(batch, batch_idx, dataloader_idx)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Text, questions about two images (trees), and a conversation with both in two turns."""
    for name, seed in (("a.png", 1), ("b.png", 2)):
        draw = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 255, (30, 40, 3), dtype=torch.uint8, generator=draw)
        Image.fromarray(pixels.numpy()).save(tmp_path / name)
    both = [
        {"role": "user", "content": "<image>What?"},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "<image>And here?"},
        {"role": "assistant", "content": "B, and more."},
    ]
    asked = [
        {"question": f"What {i}?", "answer": f"{i} " * i, "image": f"{'ab'[i % 2]}.png"}
        for i in range(1, 7)
    ]
    rows: dict[str, list[Any]] = {
        "text": [{"question": "Hi " * i, "answer": "yes " * i} for i in range(1, 6)],
        "image": [*asked, {"messages": both, "images": ["a.png", "b.png"]}],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def data(files: dict[str, str], checkpoint: Path, pack_tokens: int | None) -> MixtureDataModule:
    sources: dict[str, Any] = {
        name: InstructDataModule(file, validation=file) for name, file in files.items()
    }
    options: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "batch_size": 4,
        "pack_tokens": pack_tokens,
    }
    return MixtureDataModule(sources, text_only=("text",), loss_weights={"text": 0.5}, **options)


def run(
    files: dict[str, str], checkpoint: Path, pack_tokens: int | None, dropout: float = 0.0
) -> Logged:
    """Two optimizer steps of two micro-batches, then a validation."""
    L.seed_everything(3, verbose=False)
    parts = {
        "language_model": PartPlan("lora"),
        "aligner": PartPlan("full"),
        "lm_head": PartPlan("full"),
    }
    module = Logged(str(checkpoint), "none", parts, lr=1e-3, warmup_steps=1, lora_dropout=dropout)
    module.logged = []
    module.shapes = []
    trainer = quiet_trainer(
        max_steps=2,
        accumulate_grad_batches=2,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(module, data(files, checkpoint, pack_tokens))
    return module


def trained(module: Logged) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.network.named_parameters() if p.requires_grad}


def test_a_packed_run_trains_and_reports_as_the_plain_one(
    files: dict[str, str], hybrid_checkpoint: Path
) -> None:
    plain, packed = run(files, hybrid_checkpoint, None), run(files, hybrid_checkpoint, 400)
    assert [name for name, _ in packed.logged] == [name for name, _ in plain.logged]
    assert {"train/loss_text", "train/loss_image", "val/loss"} <= {name for name, _ in plain.logged}
    for (name, ours), (_, expected) in zip(packed.logged, plain.logged, strict=True):
        assert ours == pytest.approx(expected, abs=1e-5, rel=1e-5), name
    assert_trained_alike(trained(packed), trained(plain), atol=2e-5)
    fewer = [ours[0] < theirs[0] for ours, theirs in zip(packed.shapes, plain.shapes, strict=True)]
    assert all(fewer) and len(fewer) == 6  # four micro-batches, and two of the validation


def test_dropout_on_packed_rows_is_drawn_by_position(
    files: dict[str, str], hybrid_checkpoint: Path
) -> None:
    once, again = (trained(run(files, hybrid_checkpoint, 400, dropout=0.3)) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_a_length_that_no_row_has(files: dict[str, str], hybrid_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="pack_tokens: 0"):
        data(files, hybrid_checkpoint, 0).setup("fit")
