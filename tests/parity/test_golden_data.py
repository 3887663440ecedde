"""Pixels, ids and masks against files that the original DeepSeek-VL code wrote.

See tests/golden/*/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.data.images.load import load_image
from dsvl_tune.families.deepseek_vl.family import DeepSeekVL
from dsvl_tune.families.deepseek_vl.pixels import (
    ImageSettings,
    TowerPixels,
    normalize,
    pad_image,
    resize_square,
    split_image,
    to_square,
)

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ("hybrid", "siglip")
IMAGE_TOKEN = "<image_placeholder>"

# Read in the original code: gray for SigLIP, CLIP's mean and deviation for SAM.
HALF = TowerPixels(384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = TowerPixels(1024, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@cache
def golden_processor(family: str) -> Processor:
    """What the golden files were made with, built from them without our own loader."""
    facts = read(GOLDEN / family / "conversations.json")
    pixels = read(GOLDEN / family / "pixels" / "pixels.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / family / "checkpoint" / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜end▁of▁sentence｜>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return Processor(
        tokenizer=tokenizer,
        family=DeepSeekVL(),
        image_settings=ImageSettings(
            pixels["side"],
            tuple(pixels["background"]),
            siglip=HALF,
            sam=CLIP if family == "hybrid" else None,
            tokens=facts["num_image_tokens"],
        ),
        image_token=IMAGE_TOKEN,
        image_token_id=facts["image_token_id"],
        default_system=facts["default_system_prompt"],
        bos_id=facts["bos_token_id"],
        eos_id=facts["eos_token_id"],
        pad_id=facts["pad_token_id"],
        context_tokens=16384,
    )


def records(family: str) -> list[dict[str, Any]]:
    return list(read(GOLDEN / family / "pixels" / "pixels.json")["images"])


def cases(family: str) -> list[dict[str, Any]]:
    return list(read(GOLDEN / family / "conversations.json")["cases"])


PIXELS = [
    pytest.param(family, r, id=f"{family}-{Path(r['image']).stem}")
    for family in FAMILIES
    for r in records(family)
]
CASES = [
    pytest.param(family, case, id=f"{family}-{case['id']}")
    for family in FAMILIES
    for case in cases(family)
]


@pytest.mark.parametrize(("family", "record"), PIXELS)
def test_pixels(
    family: str, record: dict[str, Any], comparable: Callable[[str, str], bool]
) -> None:
    if not comparable(family, record["image"]):
        pytest.skip("another JPEG decoder or Pillow than the reference's")
    folder, settings = GOLDEN / family, golden_processor(family).image_settings
    image = load_image(ImageRef(folder / record["image"], "it"), "golden")
    square = np.array(to_square(image, settings))
    np.testing.assert_array_equal(square, np.array(Image.open(folder / record["square"])))

    inputs = normalize(split_image(pad_image(image, settings), settings), settings)
    pixels = {name: tensor[0] for name, tensor in inputs.items()}
    plain = torch.from_numpy(square).permute(2, 0, 1).double() / 255
    if family == "siglip":
        siglip = pixels["pixel_values"].double()
        torch.testing.assert_close(siglip, (plain - 0.5) / 0.5, atol=1e-6, rtol=0)
        return
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (CLIP.mean, CLIP.std)
    )
    sam = pixels["high_res_pixel_values"].double()
    torch.testing.assert_close(sam, (plain - mean) / std, atol=1e-5, rtol=0)
    low = torch.from_numpy(np.load(folder / record["low"])["low"]).float()
    torch.testing.assert_close(resize_square(plain.float()[None], 384)[0], low, atol=3e-4, rtol=0)
    torch.testing.assert_close(pixels["pixel_values"], (low - 0.5) / 0.5, atol=6e-4, rtol=0)


def conversation(case: dict[str, Any], folder: Path, image_token: str) -> Conversation:
    """The case with its placeholder strings as image parts."""
    turns = []
    for message in case["messages"]:
        refs = iter(ImageRef(folder / name, name) for name in message.get("images", ()))
        first, *rest = message["content"].split(image_token)
        parts: list[str | ImageRef] = [first]
        for text in rest:
            parts += [next(refs), text]
        turns.append(Turn("user" if message["role"] == "User" else "assistant", tuple(parts)))
    system = None if case["system"]["kind"] == "default" else case["system"]["text"]
    return Conversation(tuple(turns), source=case["id"], system=system)


@pytest.mark.parametrize(("family", "case"), CASES)
def test_ids_and_masks(family: str, case: dict[str, Any]) -> None:
    processor = golden_processor(family)
    row = conversation(case, GOLDEN / family, processor.image_token)
    sample = encode(row, processor, mode=case["form"])

    spans = case["image_spans_expanded"]
    visual_tokens = read(GOLDEN / family / "conversations.json")["num_image_tokens"]
    expanded: list[int] = []
    for token in case["input_ids"]:
        expanded += [token] * (visual_tokens if token == processor.image_token_id else 1)
    assert sample.input_ids == expanded
    assert len(sample.input_ids) == case["expanded_length"]
    assert [p for p, token in enumerate(sample.input_ids) if token == processor.image_token_id] == [
        p for start, end in spans for p in range(start, end)
    ]
    assert [list(span) for span in sample.image_spans] == spans
    assert [image.name for image in sample.images] == [
        n for m in case["messages"] for n in m.get("images", ())
    ]

    supervised = {
        p for start, end in case.get("supervised_expanded", ()) for p in range(start, end)
    }
    expected = [token if p in supervised else IGNORE_INDEX for p, token in enumerate(expanded)]
    assert sample.labels == expected
    assert sample.loss_weights == [1.0 if p in supervised else 0.0 for p in range(len(expanded))]
    assert sample.position_ids == list(range(len(expanded)))

    if case["form"] == "generation":
        assert encode_prompt(row, processor).input_ids == expanded
