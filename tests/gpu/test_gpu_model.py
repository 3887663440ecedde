"""The model on a GPU: golden logits, fast kernels against plain ones, masks, head, generation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from reference import exact_copy
from safetensors.torch import load_file
from test_golden_model import GENERATION, GOLDEN, conversation
from test_relative_position_attention import GEOMETRIES, pair
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from dsvl_tune.core.types import IGNORE_INDEX, Batch, Prompts
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.evaluation.generation.generate import generate_ids, greedy_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.attention_mask import use_attention
from dsvl_tune.models.runtime.compile import compile_layers
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss
from dsvl_tune.training.objectives.supervised import supervised_loss

DTYPES = (torch.float32, torch.bfloat16)
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Of a difference's norm, as a share of the norm. Float32 sums in any order differ by 1e-6, and
bfloat16 has 8 bits, of which a model of a few layers loses some."""


def to_device(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A batch on a device, its vision inputs in a dtype."""
    moved = {
        name: value.to(device) for name, value in vars(batch).items() if isinstance(value, Tensor)
    }
    vision = {name: x.to(device, dtype) for name, x in batch.vision_inputs.items()}
    return replace(batch, **moved, vision_inputs=vision)


def assert_near(found: Tensor, wanted: Tensor, bound: float, name: str = "") -> None:
    """The difference is small against what is wanted."""
    difference = (found.double().cpu() - wanted.double().cpu()).norm()
    assert float(difference) <= bound * float(wanted.double().norm()) + 1e-12, (name, difference)


@pytest.fixture(params=["hybrid", "siglip"])
def golden(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def golden_prompts(family: str, names: tuple[str, ...]) -> Prompts:
    processor = open_checkpoint(GOLDEN / family / "checkpoint").processor
    encoded = [encode_prompt(conversation(family, name), processor) for name in names]
    return normalize_images(collate_prompts(encoded, processor.pad_id), processor)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GENERATION)
def test_golden_logits(golden: str, name: str, dtype: torch.dtype, device: torch.device) -> None:
    model = create_model(open_checkpoint(GOLDEN / golden / "checkpoint"), dtype).to(device).eval()
    install_kernels(model)
    batch = to_device(golden_prompts(golden, (name,)), device, dtype)
    images = encode_images(model, batch)
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        **({"mm_encoder_outputs": images} if images else {}),
    ).logits[0]
    expected = load_file(GOLDEN / golden / "logits.safetensors")
    positions = expected[f"{name}.positions"]
    assert_near(logits.cpu()[positions], expected[f"{name}.logits"], BOUNDS[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_attention_of_sam(
    geometry: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    heads, side, window, batch, height, width = geometry
    torch.manual_seed(0)
    theirs, ours = pair(heads, side, window)
    hidden = torch.randn(batch, height, width, 64 * heads)
    truth = gradients_of(exact_copy(theirs), hidden.double())
    found = gradients_of(ours.to(device, dtype), hidden.to(device, dtype))
    for name, wanted in truth.items():
        assert_near(found[name], wanted, 3 * BOUNDS[dtype], name)


def gradients_of(attention: nn.Module, hidden: Tensor) -> dict[str, Tensor]:
    """Output and the gradients of what is large; the key's bias has none but rounding."""
    hidden = hidden.requires_grad_()
    output, _ = attention(hidden_states=hidden)
    output.square().sum().backward()
    found = {"output": output.detach(), "hidden": hidden.grad}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def tree_and_packed(model: PreTrainedModel) -> Batch:
    """A row with a message tree and a row of two packed conversations with padding, with images."""
    torch.manual_seed(1)
    visual, width = 16, 96
    ids = torch.randint(10, 300, (2, width))
    ids[:, :visual] = model.config.image_token_id
    segments, branches = torch.zeros(2, width).long(), torch.zeros(2, width).long()
    branches[0, 40:60], branches[0, 60:] = 1, 2
    segments[1, 50:90] = 1
    segments[1, 90:] = branches[1, 90:] = -1
    positions = torch.arange(width).repeat(2, 1)
    positions[0, 60:] -= 20
    positions[1, 50:90] -= 50
    positions[1, 90:] = 0
    labels = torch.where((ids == model.config.image_token_id) | (segments < 0), IGNORE_INDEX, ids)
    return Batch(
        input_ids=ids,
        labels=labels,
        loss_weights=(labels != IGNORE_INDEX).float(),
        position_ids=positions,
        segment_ids=segments,
        branch_ids=branches,
        vision_inputs={
            "pixel_values": torch.randn(2, 3, 32, 32),
            "high_res_pixel_values": torch.randn(2, 3, 64, 64),
        },
        image_index=torch.tensor([0, 1]),
        sources=["", ""],
    )


def loss_and_gradients(model: Any, batch: Batch) -> dict[str, Tensor]:
    """The supervised loss and every gradient of it."""
    model.zero_grad(set_to_none=True)
    sums = supervised_loss(model, batch)
    (sums.loss / sums.weight).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": sums.loss.detach() / sums.weight, **gradients}


def assert_alike(model: Any, batch: Batch, change: Callable[[Any], None], bound: float) -> None:
    """A change to a copy of a model leaves the loss and every gradient as they are."""
    other = copy.deepcopy(model)
    change(other)
    assert_same_step(loss_and_gradients(other, batch), loss_and_gradients(model, batch), bound)


def assert_same_step(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    """The loss, and each gradient that is more than the rounding of the others.

    A key's bias has none but rounding: it moves all scores of a query alike.
    """
    assert found.keys() == wanted.keys() and len(wanted) > 20
    assert_near(found["loss"], wanted["loss"], bound, "loss")
    largest = max(float(one.norm()) for name, one in wanted.items() if name != "loss")
    for name, gradient in wanted.items():
        if float(gradient.norm()) > 1e-4 * largest:
            assert_near(found[name], gradient, 10 * bound, name)


@pytest.fixture
def model(hybrid_checkpoint: Path, device: torch.device) -> PreTrainedModel:
    return create_model(open_checkpoint(hybrid_checkpoint)).to(device).train()


def test_flex_attention_is_the_dense_mask(model: PreTrainedModel, card: torch.device) -> None:
    batch = to_device(tree_and_packed(model), card, torch.float32)
    assert_alike(model, batch, lambda other: use_attention(other, "flex"), 1e-4)


def test_kernels_and_compiled_layers(model: PreTrainedModel, device: torch.device) -> None:
    batch = to_device(tree_and_packed(model), device, torch.float32)
    assert_alike(model, batch, install_kernels, 1e-4)
    assert_alike(model, batch, compile_layers, 1e-4)


def test_a_gpu_computes_what_the_cpu_does(model: PreTrainedModel, card: torch.device) -> None:
    batch = tree_and_packed(model)
    on_cpu = loss_and_gradients(copy.deepcopy(model).cpu(), batch)
    on_gpu = loss_and_gradients(model, to_device(batch, card, torch.float32))
    assert_same_step(on_gpu, on_cpu, 1e-4)


@torch.no_grad()
def test_pinned_levels_are_normalized_on_the_device(golden: str, device: torch.device) -> None:
    """As a loader with pinned memory gives them, copied while the host goes on."""
    processor = open_checkpoint(GOLDEN / golden / "checkpoint").processor
    encoded = [encode_prompt(conversation(golden, "gen_one_image"), processor)]
    levels = collate_prompts(encoded, processor.pad_id)
    assert torch.uint8 in {tensor.dtype for tensor in levels.vision_inputs.values()}
    wanted = normalize_images(levels, processor).vision_inputs
    if device.type == "cuda":
        levels = levels.pin_memory()
        assert all(tensor.is_pinned() for tensor in levels.vision_inputs.values())
        assert levels.input_ids.is_pinned() and levels.image_index.is_pinned()
    found = normalize_images(move_data_to_device(levels, device), processor)
    assert found.input_ids.device.type == device.type
    for name, tensor in found.vision_inputs.items():
        assert tensor.device.type == device.type
        assert_near(tensor, wanted[name], 1e-5, name)


def test_waits_for_the_card(model: PreTrainedModel, card: torch.device) -> None:
    """torch warns of each; `tests/traced` names them."""
    install_kernels(model)
    batch = to_device(tree_and_packed(model), card, torch.float32)
    loss_and_gradients(model, batch)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss_and_gradients(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(caught) <= 6, [str(one.message) for one in caught]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_chunked_head(dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).to(device, dtype)
    hidden = torch.randn(301, 64, device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 500, (301,), device=device)
    weights = torch.rand(301, device=device)
    loss, losses = head_loss(head, hidden, targets, weights, chunk_tokens=64)
    found = torch.autograd.grad(loss, (hidden, head.weight))
    exact_head = copy.deepcopy(head).double()
    exact_hidden = hidden.detach().double().requires_grad_()
    truth = F.cross_entropy(exact_head(exact_hidden), targets, reduction="none")
    total = (truth * weights.double()).sum()
    wanted = torch.autograd.grad(total, (exact_hidden, exact_head.weight))
    for one, other in zip((losses, *found), (truth.detach(), *wanted), strict=True):
        assert_near(one, other, BOUNDS[dtype])


@torch.no_grad()
def test_shared_prefixes_give_the_answers_of_plain_generation(
    golden: str, device: torch.device
) -> None:
    checkpoint = open_checkpoint(GOLDEN / golden / "checkpoint")
    model = create_model(checkpoint).to(device).eval()
    names = ("gen_one_image", "gen_one_image", "gen_text", "gen_three_images_two_turns")
    prompts = to_device(golden_prompts(golden, names), device, torch.float32)
    assert torch.equal(greedy_ids(model, prompts, 12), generate_ids(model, prompts, 12))
