"""Pixels on their way to the device: as levels from the worker, kept for the next time, in pinned memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from dsvl_tune.core.types import Batch, ImageRef
from dsvl_tune.data.images.load import load_image, to_pixels
from dsvl_tune.data.images.lookup import keyed
from dsvl_tune.data.images.padded_cache import padded_image_cache
from dsvl_tune.datamodules import InstructDataModule


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(3):
        noise = torch.randint(
            0, 255, (90 - i, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)
        )
        Image.fromarray(noise.numpy()).save(tmp_path / f"{i}.png")
    content = [{"question": "What?", "answer": f"It {i}", "image": f"{i}.png"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, content)))
    return tmp_path / "rows.jsonl"


def data_of(checkpoint: Path, rows: Path, **options: Any) -> InstructDataModule:
    data = InstructDataModule(
        str(rows), validation_rows=0, checkpoint=str(checkpoint), batch_size=2, **options
    )
    data.setup("fit")
    return data


def by_origin(data: InstructDataModule) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """Pixels of each row's image as they reach the model."""
    found = {}
    for batch in data.train_dataloader():
        large = (
            batch.pixel_values
            if batch.high_res_pixel_values is None
            else batch.high_res_pixel_values
        )
        assert large.dtype == torch.uint8
        batch = data.on_after_batch_transfer(batch, 0)
        for row, source in enumerate(batch.sources):
            image = batch.image_index[row]
            high = batch.high_res_pixel_values
            found[source] = batch.pixel_values[image], None if high is None else high[image]
    return found


def assert_same(found: dict[str, Any], rows: Path, data: InstructDataModule) -> None:
    assert data.processor is not None and len(found) == 3
    for i, source in enumerate(sorted(found)):
        ref = ImageRef(rows.parent / f"{i}.png", "it")
        wanted = to_pixels(load_image(ref, "test"), data.processor.image_rule, "it")
        low, high = found[source]
        assert low.dtype == torch.float32 and torch.equal(low, wanted.low)
        assert (high is None and wanted.high is None) or torch.equal(high, wanted.high)


@pytest.mark.parametrize("workers", [0, 1])
def test_levels_become_the_same_pixels_bit_for_bit(
    checkpoint: Path, rows: Path, workers: int
) -> None:
    data = data_of(checkpoint, rows, num_workers=workers)
    assert_same(by_origin(data), rows, data)
    assert not (rows.parent / "cache").exists()


def test_kept_squares_are_used_and_belong_to_bytes_and_rule(checkpoint: Path, rows: Path) -> None:
    data = data_of(checkpoint, rows, pixel_cache_gb=1.0)
    for _ in range(2):
        assert_same(by_origin(data), rows, data)
    assert data.processor is not None
    rule = data.processor.image_rule
    store = padded_image_cache(rule, 1.0)
    assert len(list(store.root.rglob("*.safetensors"))) == 3

    _, key = keyed(ImageRef(rows.parent / "0.png", "it"), rule, "test")
    square = store.get(key)
    assert square is not None
    store.put(
        key, {"square": 255 - square["square"]}
    )  # had the picture been decoded, it would not be this one
    low, _ = by_origin(data)[f"{rows}:1"]
    wanted = to_pixels(load_image(ImageRef(rows.parent / "0.png", "it"), "test"), rule, "it").low
    assert not torch.equal(low, wanted)

    Image.open(rows.parent / "0.png").rotate(90).save(rows.parent / "0.png")
    assert_same(by_origin(data), rows, data)
    assert len(list(store.root.rglob("*.safetensors"))) == 4


def test_a_loader_pins_every_tensor(
    hybrid_checkpoint: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: shared memory stands in for the pinned one."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone().share_memory_())
    batch = next(iter(data_of(hybrid_checkpoint, rows).train_dataloader()))
    batch.features = {"low": torch.ones(2)}
    pinned = pin_memory(batch)
    assert isinstance(pinned, Batch) and pinned.sources == batch.sources
    tensors = {
        name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
    }
    assert len(tensors) >= 8
    for name, tensor in tensors.items():
        assert getattr(pinned, name).is_shared() and torch.equal(getattr(pinned, name), tensor)
    assert pinned.features is not None and pinned.features["low"].is_shared()
