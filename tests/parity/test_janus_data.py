"""Pixels, prompts, ids and masks of Janus against files that the original code wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from janus_golden import (
    CASES,
    CHECKPOINT,
    FACTS,
    FOLDER,
    PICTURES,
    conversation,
    copy_checkpoint,
    has_old_roles,
)
from PIL import Image

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, ImageRef
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.data.images.load import load_image
from dsvl_tune.families import open_checkpoint


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Processor]:
    """Of the golden checkpoint, and of one whose template has the roles of Janus 1.3B."""
    old = copy_checkpoint(
        tmp_path_factory.mktemp("old") / "checkpoint",
        processor_config={"sft_format": "deepseek_old"},
    )
    return {
        False: open_checkpoint(CHECKPOINT).processor,
        True: open_checkpoint(old).processor,
    }


@pytest.mark.parametrize("record", PICTURES, ids=lambda record: Path(record["image"]).stem)
def test_pixels(
    record: dict[str, Any],
    processors: dict[bool, Processor],
    comparable: Callable[[str, str], bool],
) -> None:
    if not comparable("janus", record["image"]):
        pytest.skip("another JPEG decoder or Pillow than the reference's")
    processor = processors[False]
    family = processor.family
    picture = load_image(ImageRef(FOLDER / record["image"], "it"), "golden")
    padded = family.pad_image(picture, processor, images=1)
    square = np.array(Image.open(FOLDER / record["square"]))
    (levels,) = padded.values()
    np.testing.assert_array_equal(levels[0].permute(1, 2, 0).numpy(), square)

    inputs = family.normalize(family.vision_input(padded, processor), processor)
    plain = torch.from_numpy(square).permute(2, 0, 1).double() / 255
    pixels = inputs["pixel_values"][0].double()
    torch.testing.assert_close(pixels, (plain - 0.5) / 0.5, atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_prompts(case: dict[str, Any], processors: dict[bool, Processor]) -> None:
    processor = processors[has_old_roles(case)]
    segments = processor.family.render(conversation(case), processor, case["form"])
    texts = [
        segment.content if isinstance(segment.content, str) else FACTS["image_token"]
        for segment in segments
    ]
    assert "".join(texts) == case["prompt"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_ids_and_masks(case: dict[str, Any], processors: dict[bool, Processor]) -> None:
    processor = processors[has_old_roles(case)]
    row = conversation(case)
    sample = encode(row, processor, mode=case["form"])

    image = processor.image_token_id
    expanded: list[int] = []
    for token in case["input_ids"]:
        expanded += [token] * (FACTS["num_image_tokens"] if token == image else 1)
    assert sample.input_ids == expanded
    assert len(sample.input_ids) == case["expanded_length"]
    spans = case["image_spans_expanded"]
    assert [p for p, token in enumerate(sample.input_ids) if token == image] == [
        p for start, end in spans for p in range(start, end)
    ]
    # Ours hold the marks around the visual tokens too.
    assert [[start + 1, end - 1] for start, end in sample.image_spans] == spans

    supervised = {
        p for start, end in case.get("supervised_expanded", ()) for p in range(start, end)
    }
    expected = [token if p in supervised else IGNORE_INDEX for p, token in enumerate(expanded)]
    assert sample.labels == expected
    assert sample.position_ids == list(range(len(expanded)))
    if case["form"] == "generation":
        assert encode_prompt(row, processor).input_ids == expanded
