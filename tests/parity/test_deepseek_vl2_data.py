"""Tiles, token ids and labels of DeepSeek-VL2, against what the reference implementation made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepseek_vl2_cases import GOLDEN, SIZES, cases, conversation
from PIL import Image
from torch import Tensor

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, ImageRef
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.data.images.load import load_image
from dsvl_tune.families import open_checkpoint

PICTURES = GOLDEN / "pictures"
RECORDS: list[dict[str, Any]] = json.loads((PICTURES / "pixels" / "pixels.json").read_text())[
    "images"
]
CASES = [(size, name) for size in SIZES for name in cases(size)]
UNCUT_TOKENS = 421


@pytest.fixture(scope="module")
def processors() -> Mapping[str, Processor]:
    return {size: open_checkpoint(GOLDEN / size / "checkpoint").processor for size in SIZES}


def digest(levels: Tensor) -> str:
    """Of a tile [3, S, S] as the reference hashed it: bytes of [S, S, 3]."""
    return sha256(levels.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: Path(record["image"]).name)
def test_tiles(record: dict[str, Any], processors: Mapping[str, Processor]) -> None:
    processor = processors["tiny"]
    picture = load_image(ImageRef(PICTURES / record["image"], ""), "test")
    if sha256(picture.tobytes()).hexdigest() != record["rgb_sha256"]:
        pytest.skip("another decoder of JPEG is in use")
    padded = processor.family.pad_image(picture, processor, 2)
    grid = [record["tiles_wide"], record["tiles_high"]]
    assert padded["image_grids"].tolist() == [grid]
    tiles = list(padded["pixel_values"])
    if grid == [1, 1]:
        tiles *= 2  # the only tile is the whole view again
    assert [digest(tile) for tile in tiles] == record["tile_sha256"]
    size = picture.size
    tokens = [len(processor.family.image_token_ids(processor, size, n)) for n in (1, 2, 3)]
    assert tokens == [record["image_tokens"]] * 2 + [record["image_tokens_without_tiling"]]

    uncut = processor.family.pad_image(picture, processor, 3)
    whole = np.array(Image.open(PICTURES / record["global"]).convert("RGB"))
    assert torch.equal(uncut["pixel_values"][0].permute(1, 2, 0), torch.from_numpy(whole))
    assert uncut["image_grids"].tolist() == [[1, 1]]

    normal = processor.family.normalize(padded, processor)["pixel_values"]
    assert torch.allclose(normal, (padded["pixel_values"] / 255 - 0.5) / 0.5, atol=1e-6)
    levels = processor.family.gray_levels({"pixel_values": normal}, processor)["SigLIP"]
    assert torch.allclose(levels, padded["pixel_values"].float(), atol=1e-3)


@pytest.mark.parametrize(("size", "name"), CASES)
def test_ids_and_labels(size: str, name: str, processors: Mapping[str, Processor]) -> None:
    processor, case = processors[size], cases(size)[name]
    row = conversation(size, case)
    sample = encode(row, processor, mode=case["form"])
    expanded: list[int] = []
    counts = iter(case["image_tokens"])
    for token in case["input_ids"]:
        expanded += [token] * (next(counts) if token == processor.image_token_id else 1)
    assert sample.input_ids == expanded
    assert len(sample.input_ids) == case["expanded_length"]
    assert [list(span) for span in sample.image_spans] == case["image_spans_expanded"]
    grids = [image.tensors["image_grids"][0].tolist() for image in sample.images]
    assert grids == case["images_spatial_crop"]
    if not case["tiled"]:
        assert {image.tokens for image in sample.images} == {UNCUT_TOKENS}

    ranges = case.get("supervised_expanded", ())
    supervised = {position for start, end in ranges for position in range(start, end)}
    # The reference leaves the first token's own id as its label, which trains on nothing in a row
    # of its own and on a false transition in a packed one.
    assert sample.labels == [
        token if position in supervised else IGNORE_INDEX for position, token in enumerate(expanded)
    ]
    texts = [processor.tokenizer.decode(expanded[start:end]) for start, end in ranges]
    assert texts == case.get("supervised_text", [])
    if case["form"] == "generation":
        assert encode_prompt(row, processor).input_ids == expanded
