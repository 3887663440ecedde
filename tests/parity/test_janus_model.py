"""Janus in its original layout through our loading path, against the reference implementation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from janus_golden import CHECKPOINT, FOLDER, TOLERANCE, case_of, conversation
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Prompts
from dsvl_tune.data.encoding.collate import collate, collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.evaluation.generation.generate import generate_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.objectives.supervised import supervised_loss

GENERATION = ("gen_text", "gen_one_image", "gen_two_images")
TRAINING = "train_three_turns"


@pytest.fixture(scope="module")
def processor() -> Processor:
    return open_checkpoint(CHECKPOINT).processor


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return create_model(open_checkpoint(CHECKPOINT))


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FOLDER / "logits.safetensors")


def prompts(processor: Processor, names: tuple[str, ...]) -> Prompts:
    encoded = [encode_prompt(conversation(case_of(name)), processor) for name in names]
    return normalize_images(collate_prompts(encoded, processor.pad_id), processor)


def test_visual_tokens(
    model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    comparable: Callable[[str, str], bool],
) -> None:
    if not comparable("janus", "images/photo.jpg"):
        pytest.skip("another JPEG decoder or Pillow than the reference's")
    images = encode_images(model, prompts(processor, ("gen_one_image",)))
    assert images is not None
    found = images["image"].pooler_output[0, ::24]
    assert (found - expected["features.gen_one_image"]).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATION)
def test_logits(
    model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor], name: str
) -> None:
    batch = prompts(processor, (name,))
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        mm_encoder_outputs=encode_images(model, batch),
    ).logits[0]
    wanted = expected[f"{name}.logits"]
    assert (logits[expected[f"{name}.positions"]] - wanted).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "batches", [[GENERATION], [(name,) for name in GENERATION]], ids=["left_padded", "one_by_one"]
)
def test_greedy_ids(
    model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    batches: list[tuple[str, ...]],
) -> None:
    for names in batches:
        ids = generate_ids(model, prompts(processor, names), max_new_tokens=12)
        for row, name in zip(ids, names, strict=True):
            assert row.tolist() == expected[f"{name}.greedy_ids"].tolist()


@torch.no_grad()
def test_loss_and_log_probabilities_of_the_training_case(
    model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor]
) -> None:
    batch = collate([encode(conversation(case_of(TRAINING)), processor)], processor.pad_id)
    batch = normalize_images(batch, processor)
    loss, weight, _ = supervised_loss(model, batch)
    wanted = float(expected[f"{TRAINING}.mean_nll"])
    assert float(loss / weight) == pytest.approx(wanted, abs=1e-5)

    positions = (batch.labels[0] != IGNORE_INDEX).nonzero().flatten()
    assert positions.tolist() == expected[f"{TRAINING}.target_positions"].tolist()
    logits = model(
        input_ids=batch.input_ids, mm_encoder_outputs=encode_images(model, batch)
    ).logits[0, positions - 1]
    found = logits.log_softmax(dim=-1)[torch.arange(len(positions)), batch.labels[0, positions]]
    assert (found - expected[f"{TRAINING}.target_logprobs"]).abs().max() <= TOLERANCE
