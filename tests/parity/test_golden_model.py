"""The original layout through our loading path, against the reference implementation's results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import exact, exact_copy
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Conversation, ImageRef, Prompts, Turn
from dsvl_tune.data.encoding.collate import collate, collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.data.images.load import load_image
from dsvl_tune.evaluation.generation.generate import generate_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.pixels import normalize, pad_image, split_image
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.objectives.supervised import supervised_loss

GOLDEN = Path(__file__).parents[1] / "golden"
GENERATION = ("gen_text", "gen_one_image", "gen_three_images_two_turns")
# The golden files' README. They were computed in float32, up to 5.1e-5 from float64. Ours are
# compared in float64: float32 adds up to 5.6e-5, depending on the processor's order of sums.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["hybrid", "siglip"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def processor(family: str) -> Processor:
    return open_checkpoint(GOLDEN / family / "checkpoint").processor


@pytest.fixture(scope="module")
def model(family: str) -> PreTrainedModel:
    return create_model(open_checkpoint(GOLDEN / family / "checkpoint"))


@pytest.fixture(scope="module")
def exact_model(model: PreTrainedModel) -> Any:
    """In float64."""
    return exact_copy(model)


@pytest.fixture(scope="module")
def expected(family: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / family / "logits.safetensors")


def conversation(family: str, name: str) -> Conversation:
    """A golden case as a conversation of ours."""
    cases = json.loads((GOLDEN / family / "conversations.json").read_text(encoding="utf-8"))[
        "cases"
    ]
    case: dict[str, Any] = next(case for case in cases if case["id"] == name)
    turns = []
    for message in case["messages"]:
        images = [ImageRef(GOLDEN / family / path, path) for path in message.get("images", [])]
        texts = message["content"].split("<image_placeholder>")
        parts = [
            part for pair in zip(texts, [*images, ""], strict=True) for part in pair if part != ""
        ]
        if parts:
            role = "user" if message["role"] == "User" else "assistant"
            turns.append(Turn(role, tuple(parts)))  # type: ignore[arg-type]
    return Conversation(tuple(turns), name, system=case["system"]["text"])


def prompts(family: str, processor: Processor, names: tuple[str, ...]) -> Prompts:
    encoded = [encode_prompt(conversation(family, name), processor) for name in names]
    return normalize_images(collate_prompts(encoded, processor.pad_id), processor)


def in_float64(batch: Any) -> Any:
    """Prompts or a training batch with float64 pixels."""
    return replace(batch, vision_inputs=exact(batch.vision_inputs))


def test_the_image_rule_is_the_originals(family: str, processor: Processor) -> None:
    settings = processor.image_settings
    assert settings.size == (1024 if family == "hybrid" else 384)
    assert settings.background == ((122, 116, 104) if family == "hybrid" else (127, 127, 127))
    assert settings.siglip.mean == settings.siglip.std == (0.5, 0.5, 0.5)
    square = np.array(Image.open(GOLDEN / family / "pixels" / f"chart.{settings.size}.png"))
    chart = load_image(ImageRef(GOLDEN / family / "images" / "chart.png", "chart"), "test")
    inputs = normalize(split_image(pad_image(chart, settings), settings), settings)
    name = "high_res_pixel_values" if family == "hybrid" else "pixel_values"
    tower = settings.towers[name]
    mean, std = (torch.tensor(values)[:, None, None] for values in (tower.mean, tower.std))
    wanted = (torch.from_numpy(square).permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(inputs[name][0], wanted, atol=1e-5)


@torch.no_grad()
def test_visual_tokens(
    family: str,
    exact_model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    comparable: Callable[[str, str], bool],
) -> None:
    for key, wanted in expected.items():
        if key.startswith("features."):
            name = key.removeprefix("features.")
            if not comparable(family, f"images/{name}"):
                continue
            ref = ImageRef(GOLDEN / family / "images" / name, name)
            one = Conversation((Turn("user", (ref,)),), name)
            batch = collate_prompts([encode_prompt(one, processor)], processor.pad_id)
            images = encode_images(exact_model, in_float64(normalize_images(batch, processor)))
            assert images is not None
            assert (images["image"].pooler_output[0, ::24] - wanted).abs().max() <= TOLERANCE, name


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATION)
def test_logits(
    family: str,
    exact_model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    name: str,
) -> None:
    batch = in_float64(prompts(family, processor, (name,)))
    logits = exact_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        mm_encoder_outputs=encode_images(exact_model, batch),
    ).logits[0]
    wanted = expected[f"{name}.logits"]
    assert (logits[expected[f"{name}.positions"]] - wanted).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "batches", [[GENERATION], [(name,) for name in GENERATION]], ids=["left_padded", "one_by_one"]
)
def test_greedy_ids(
    family: str,
    model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    batches: list[tuple[str, ...]],
) -> None:
    for names in batches:
        ids = generate_ids(model, prompts(family, processor, names), max_new_tokens=12)
        for row, name in zip(ids, names, strict=True):
            assert row.tolist() == expected[f"{name}.greedy_ids"].tolist()


@torch.no_grad()
def test_mean_loss_of_the_training_case(
    family: str, model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor]
) -> None:
    name = next(key.removesuffix(".mean_nll") for key in expected if key.endswith(".mean_nll"))
    batch = collate([encode(conversation(family, name), processor)], processor.pad_id)
    batch = normalize_images(batch, processor)
    loss, weight, _ = supervised_loss(model, batch)
    assert float(loss / weight) == pytest.approx(float(expected[f"{name}.mean_nll"]), abs=1e-5)


@torch.no_grad()
def test_log_probability_of_every_supervised_token(
    family: str, exact_model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor]
) -> None:
    name = next(
        key.removesuffix(".target_logprobs") for key in expected if key.endswith(".target_logprobs")
    )
    batch = collate([encode(conversation(family, name), processor)], processor.pad_id)
    batch = in_float64(normalize_images(batch, processor))
    positions = (batch.labels[0] != IGNORE_INDEX).nonzero().flatten()
    assert positions.tolist() == expected[f"{name}.target_positions"].tolist()
    images = (
        {"mm_encoder_outputs": encode_images(exact_model, batch)} if batch.vision_inputs else {}
    )
    logits = exact_model(input_ids=batch.input_ids, **images).logits[0, positions - 1]
    found = logits.log_softmax(dim=-1)[torch.arange(len(positions)), batch.labels[0, positions]]
    assert (found - expected[f"{name}.target_logprobs"]).abs().max() <= TOLERANCE
