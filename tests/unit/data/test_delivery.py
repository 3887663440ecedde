"""Images on their way to the device: as levels from the worker, cached, in pinned memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from dsvl_tune.core.types import Batch, ImageRef
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.images.loader import read_with_key
from dsvl_tune.data.images.padded_cache import padded_image_cache
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.families.deepseek_vl.pixels import normalize, pad_image, split_image


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


def by_source(data: InstructDataModule) -> dict[str, dict[str, torch.Tensor]]:
    """Vision inputs of each row's image as they reach the model."""
    found = {}
    for batch in data.train_dataloader():
        largest = list(batch.vision_inputs.values())[-1]
        assert largest.dtype == torch.uint8
        batch = data.on_after_batch_transfer(batch, 0)
        for row, source in enumerate(batch.sources):
            image = batch.image_index[row]
            found[source] = {name: tensor[image] for name, tensor in batch.vision_inputs.items()}
    return found


def decoded(path: Path, data: InstructDataModule) -> dict[str, torch.Tensor]:
    """Vision inputs of a picture, without loader and caches."""
    settings = data.read_processor().image_settings
    padded = pad_image(load_image(ImageRef(path, "it"), "test"), settings)
    inputs = normalize(split_image(padded, settings), settings)
    return {name: tensor[0] for name, tensor in inputs.items()}


def assert_same(
    found: dict[str, dict[str, torch.Tensor]], rows: Path, data: InstructDataModule
) -> None:
    assert len(found) == 3
    for i, source in enumerate(sorted(found)):
        wanted = decoded(rows.parent / f"{i}.png", data)
        assert set(found[source]) == set(wanted)
        for name, tensor in wanted.items():
            assert found[source][name].dtype == torch.float32
            assert torch.equal(found[source][name], tensor)


@pytest.mark.parametrize("workers", [0, 1])
def test_levels_become_the_same_pixels_bit_for_bit(
    checkpoint: Path, rows: Path, workers: int
) -> None:
    data = data_of(checkpoint, rows, num_workers=workers)
    assert_same(by_source(data), rows, data)
    assert not (rows.parent / "cache").exists()


def test_cached_images_are_used_and_belong_to_bytes_and_settings(
    checkpoint: Path, rows: Path
) -> None:
    data = data_of(checkpoint, rows, pixel_cache_gb=1.0)
    for _ in range(2):
        assert_same(by_source(data), rows, data)
    processor = data.read_processor()
    cache = padded_image_cache(processor, 1.0)
    assert len(list(cache.root.rglob("*.safetensors"))) == 3

    ref = ImageRef(rows.parent / "0.png", "it")
    tokens = len(processor.family.image_token_ids(processor, None, 1))
    _, key = read_with_key(ref, tokens, processor, "test")
    entry = cache.get(key)
    assert entry is not None
    # Inverted: had the picture been decoded, it would not be this one.
    cache.put(key, {name: 255 - levels for name, levels in entry.items()})
    found = by_source(data)[f"{rows}:1"]["pixel_values"]
    assert not torch.equal(found, decoded(rows.parent / "0.png", data)["pixel_values"])

    Image.open(rows.parent / "0.png").rotate(90).save(rows.parent / "0.png")
    assert_same(by_source(data), rows, data)
    assert len(list(cache.root.rglob("*.safetensors"))) == 4


def test_a_loader_pins_every_tensor(
    hybrid_checkpoint: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: shared memory stands in for page-locked memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone().share_memory_())
    batch = next(iter(data_of(hybrid_checkpoint, rows).train_dataloader()))
    batch.features = {"low": torch.ones(2)}
    pinned = pin_memory(batch)
    assert isinstance(pinned, Batch) and pinned.sources == batch.sources
    tensors = {
        name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
    }
    assert len(tensors) >= 7
    for name, tensor in tensors.items():
        assert getattr(pinned, name).is_shared() and torch.equal(getattr(pinned, name), tensor)
    assert pinned.features["low"].is_shared()
    assert len(pinned.vision_inputs) == 2
    for name, tensor in batch.vision_inputs.items():
        assert pinned.vision_inputs[name].is_shared()
        assert torch.equal(pinned.vision_inputs[name], tensor)
