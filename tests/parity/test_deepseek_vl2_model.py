"""The composed DeepSeek-VL2, against what the reference implementation computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deepseek_vl2_cases import GOLDEN, SIZES, cases, conversation
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Prompts
from dsvl_tune.data.encoding.collate import collate, collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.evaluation.generation.generate import generate_ids
from dsvl_tune.export.verify import inputs_of
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.objectives.supervised import supervised_loss

GENERATION = ("gen_text", "gen_one_image", "gen_two_images", "gen_three_images_no_tiling")
TOLERANCE = 1e-4  # the golden files' README


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def processor(size: str) -> Processor:
    return open_checkpoint(GOLDEN / size / "checkpoint").processor


@pytest.fixture(scope="module")
def model(size: str) -> PreTrainedModel:
    return create_model(open_checkpoint(GOLDEN / size / "checkpoint"))


@pytest.fixture(scope="module")
def expected(size: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / size / "logits.safetensors")


def prompts(size: str, processor: Processor, *names: str) -> Prompts:
    known = cases(size)
    encoded = [encode_prompt(conversation(size, known[name]), processor) for name in names]
    return normalize_images(collate_prompts(encoded, processor.pad_id), processor)


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATION)
def test_logits(
    size: str,
    model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    name: str,
) -> None:
    """By the model's own forward, from pixels."""
    logits = model(**inputs_of(model, prompts(size, processor, name))).logits[0]
    found = logits[expected[f"{name}.positions"]]
    assert (found - expected[f"{name}.logits"]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_visual_tokens(
    size: str, model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor]
) -> None:
    for name in ("gen_one_image", "gen_two_images"):
        batch = prompts(size, processor, name)
        images = processor.family.encode_images(model, batch.vision_inputs)
        for number, visual in enumerate(images):
            rows = expected[f"{name}.image{number}.rows"]
            wanted = expected[f"{name}.image{number}.embeds"]
            assert (visual[rows] - wanted).abs().max() <= TOLERANCE
    batch = prompts(size, processor, "gen_one_image")
    tiles = model.model.encode_tiles(batch.vision_inputs["pixel_values"][:2])
    for tile, name in zip(tiles, ("features.global", "features.local_0"), strict=True):
        assert (tile[::8] - expected[name]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "batches", [[GENERATION], [(name,) for name in GENERATION]], ids=["left_padded", "one_by_one"]
)
def test_greedy_ids(
    size: str,
    model: PreTrainedModel,
    processor: Processor,
    expected: dict[str, Tensor],
    batches: list[tuple[str, ...]],
) -> None:
    for names in batches:
        ids = generate_ids(model, prompts(size, processor, *names), max_new_tokens=10)
        for row, name in zip(ids, names, strict=True):
            assert row.tolist() == expected[f"{name}.greedy_ids"].tolist()


def test_generation_from_pixels(
    size: str, model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor]
) -> None:
    inputs = inputs_of(model, prompts(size, processor, "gen_one_image"))
    ids = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    made = ids[0, inputs["input_ids"].shape[1] :]
    assert made.tolist() == expected["gen_one_image.greedy_ids"].tolist()


@torch.no_grad()
def test_log_probability_of_every_supervised_token(
    size: str, model: PreTrainedModel, processor: Processor, expected: dict[str, Tensor]
) -> None:
    name = "train_three_turns"
    sample = encode(conversation(size, cases(size)[name]), processor)
    batch = normalize_images(collate([sample], processor.pad_id), processor)
    positions = (batch.labels[0] != IGNORE_INDEX).nonzero().flatten()
    assert positions.tolist() == expected[f"{name}.target_positions"].tolist()
    images = encode_images(model, batch)
    logits = model(input_ids=batch.input_ids, mm_encoder_outputs=images).logits[0, positions - 1]
    found = logits.log_softmax(dim=-1)[torch.arange(len(positions)), batch.labels[0, positions]]
    assert (found - expected[f"{name}.target_logprobs"]).abs().max() <= TOLERANCE
    loss, weight, _ = supervised_loss(model, batch)
    mean = float(expected[f"{name}.mean_nll"])
    assert float(loss / weight) == pytest.approx(mean, abs=1e-5)


@torch.no_grad()
def test_saved_and_loaded_by_transformers(
    size: str, model: PreTrainedModel, tmp_path: Path, expected: dict[str, Tensor]
) -> None:
    """Own layout, by transformers' own functions; the correction bias stays float32."""
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    biases = {name: buffer for name, buffer in half.named_buffers() if "correction" in name}
    assert bool(biases) == (size == "base")
    assert all(bias.dtype == torch.float32 for bias in biases.values())
    ids = torch.tensor([cases(size)["gen_text"]["input_ids"]])
    found = again(input_ids=ids).logits[0, expected["gen_text.positions"]]
    assert (found - expected["gen_text.logits"]).abs().max() <= TOLERANCE
