"""Steps and answers on a pretended CUDA device, next to the same on the CPU. See `test_traced.py`.

Kernels for CUDA (fused attention, bitsandbytes', Triton's) are not run; `tests/gpu` has those.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import BUILDERS
from lightning.fabric.utilities.apply_func import move_data_to_device
from PIL import Image
from pretended_cuda import CUDA, PretendedTensor, pretended_cuda
from tiny_deepseek_vl2 import build_deepseek_vl2
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers import PreTrainedModel

from dsvl_tune.core.family import Plan
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import Batch, Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.batches import make_batch, make_prompts
from dsvl_tune.data.encoding.collate import normalize_images
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.evaluation.generation.generate import greedy_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.build import Adaptation, build_model
from dsvl_tune.models.runtime.attention_mask import answering, block_mask, use_attention
from dsvl_tune.training.feature_cache import FeatureExtractor
from dsvl_tune.training.objectives.supervised import supervised_loss
from dsvl_tune.training.optim import make_optimizer

FAMILIES = ("deepseek_vl", "deepseek_vl_hybrid", "deepseek_vl2", "janus")


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random small checkpoint."""
    made = tmp_path_factory.mktemp(request.param)
    if request.param == "deepseek_vl2":
        return build_deepseek_vl2(made)
    return BUILDERS[request.param](made, 48, 80)


def conversations() -> list[Conversation]:
    """Two questions about a picture, one about another, and text."""
    one, two = (ImageRef(Image.effect_noise(size, 60), str(size)) for size in [(40, 30), (130, 40)])
    asked = [(one, "What?"), (one, "How many bars?"), (two, "And this?"), ("Hello",)]
    return [
        Conversation((Turn("user", parts), Turn("assistant", ("Two, or three.",))), "row")
        for parts in asked
    ]


def batch_of(folder: Path, pack_tokens: int | None = None) -> Batch:
    """A tree and plain rows, or packed rows; levels are not normalized yet."""
    tree, *others = conversations()[:2], *([row] for row in conversations()[2:])
    return make_batch(
        [tree, *others], open_checkpoint(folder).processor, None, "error", pack_tokens
    )


def model_of(
    folder: Path, preset: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, Plan]:
    """The model of a run, and its plan; adapters do something from the start."""
    model, plan = build_model(
        open_checkpoint(folder),
        Adaptation(preset=preset, parts={}, dtype=dtype),
        gradient_checkpointing=True,
        attention="sdpa",
        compiled=False,
        kernels="auto",
        mesh=None,
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model, plan


def loss_and_gradients(
    model: PreTrainedModel, batch: Batch, folder: Path, mixed: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of a step as a run takes it, from levels on.

    Args:
        model: with what trains.
        batch: on its device.
        folder: of the base checkpoint.
        mixed: whether bfloat16 is computed with what trains in float32.
    """
    batch = normalize_images(batch, open_checkpoint(folder).processor)
    with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=mixed):
        sums = supervised_loss(model, batch)
    loss = sums.loss / sums.weight
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def assert_near(found: Tensor, wanted: Tensor, bound: float) -> None:
    """What the device has is what the CPU has: the norm of the difference, as a share."""
    assert isinstance(found, PretendedTensor)
    difference = found.inner.double() - wanted.double()
    assert difference.norm() <= bound * wanted.double().norm()


def flat(tensors: dict[str, Tensor]) -> Tensor:
    """All of them as one, in the order of their names."""
    return torch.cat([tensors[name].flatten().float() for name in sorted(tensors)])


OURS = "dsvl_tune"
OWN_WAITS = ["supervised.supervised_loss", "attention_mask.decoder_attention"]
"""To count the supervised tokens, and to see whether a mask is needed. Both come before anything is
computed, when a wait costs least."""
WAITS = {
    "deepseek_vl": [],
    "deepseek_vl_hybrid": [],
    "janus": [],
    # Tiles and slots are laid out by numbers; their tokens are counted.
    "deepseek_vl2": ["layout.split_tiles", "encode_images.fill_slots", "model.fill_in"],
}
"""Of this package in a step, besides."""
THEIR_WAITS = {"get_placeholder_mask", "torch_compilable_check"}
"""Functions of transformers, which count visual tokens."""


@pytest.mark.parametrize(
    ("preset", "mixed", "pack_tokens"),
    [("lora", False, None), ("lora", True, 400), ("full", False, 400), ("full", True, None)],
    ids=["lora-float32-trees", "lora-bf16-packed", "full-float32-packed", "full-bf16-trees"],
)
def test_a_step(folder: Path, preset: str, mixed: bool, pack_tokens: int | None) -> None:
    """Images that come as levels, layers that are computed again, and the optimizer."""
    model, plan = model_of(folder, preset, torch.bfloat16 if mixed else torch.float32)
    batch = batch_of(folder, pack_tokens)
    loss, gradients = loss_and_gradients(copy.deepcopy(model), batch, folder, mixed)
    with pretended_cuda() as device:
        model.to(CUDA)
        tensors = [*model.parameters(), *model.buffers()]
        assert {tensor.device for tensor in tensors} == {CUDA}
        on_device = move_data_to_device(batch, CUDA)
        device.waits.clear()
        found_loss, found = loss_and_gradients(model, on_device, folder, mixed)
        ours = [name for package, name in device.waits if package == OURS]
        assert ours == OWN_WAITS + WAITS[model.config.model_type], device.waits
        others = {name.rpartition(".")[2] for package, name in device.waits if package != OURS}
        assert others <= THEIR_WAITS, device.waits  # none in the backward pass, which is ""
        optimizer = make_optimizer(model, plan, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        before = flat({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
        optimizer.step()
        after = flat({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
        found_gradients, changed = flat(found), float((after - before).abs().mean())
    assert_near(found_loss, loss, 1e-2 if mixed else 1e-5)
    assert found.keys() == gradients.keys()
    assert_near(found_gradients, flat(gradients), 0.15 if mixed else 1e-4)
    assert 0.5e-3 < changed < 2e-3  # AdamW's first step is the learning rate, or nearly


@torch.no_grad()
def test_answers(folder: Path) -> None:
    """Greedy answers, prompts with a shared prefix among them."""
    model, _ = model_of(folder, "lora")
    processor = open_checkpoint(folder).processor
    numbered = list(enumerate(conversations()))
    prompts = make_prompts(numbered, processor, None, "error")
    wanted = greedy_ids(model.eval(), normalize_images(prompts, processor), 8)
    with pretended_cuda(), answering(model):
        model.to(CUDA)
        on_device = normalize_images(move_data_to_device(prompts, CUDA), processor)
        found = greedy_ids(model, on_device, 8)
    assert isinstance(found, PretendedTensor) and torch.equal(found.inner, wanted)


def test_features_are_cached(folder: Path, tmp_path: Path) -> None:
    """Computed on the device, written from it, and read back to it."""
    model, plan = model_of(folder, "lora")
    processor = open_checkpoint(folder).processor
    producers = processor.family.cacheable_features(plan)
    shapes = processor.family.feature_shapes(model.config, set(producers))
    cache = TensorCache(tmp_path, "one", shapes, torch.float32, 1 << 30)
    extractor = FeatureExtractor(model, processor.family, producers, cache)
    rows = [[one] for one in conversations()]
    plain = normalize_images(make_batch(rows, processor, None, "error"), processor)
    wanted = supervised_loss(model, plain).loss.detach()
    with pretended_cuda():
        model.to(CUDA)
        for is_cached in (False, True):
            batch = make_batch(rows, processor, None, "error", loader=ImageLoader(cache))
            assert bool(batch.features) == is_cached
            batch = normalize_images(move_data_to_device(batch, CUDA), processor)
            batch = extractor.with_features(batch, nullcontext())
            assert_near(supervised_loss(model, batch).loss.detach(), wanted, 1e-5)


def drop_values(module: nn.Module) -> nn.Module:
    """Put every tensor of a module on the device, without values, in place."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
            setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA))
    return module


def test_flex_attention(folder: Path) -> None:
    """Block mask, forward and backward pass of a layer, as far as torch can tell from shapes.

    The answering mode of the run's compiler leaves the kernel itself out: it is Triton's.
    """
    model, _ = model_of(folder, "lora")
    with pretended_cuda():
        use_attention(model, "flex")
    decoder = model.model.language_model
    with FakeTensorMode(), torch.compiler.set_stance("force_eager"):
        ids = torch.zeros(2, 96, dtype=torch.int64, device=CUDA)
        layer, rotary = drop_values(decoder.layers[0]), drop_values(decoder.rotary_emb)
        hidden = torch.empty(2, 96, decoder.config.hidden_size, device=CUDA, requires_grad=True)
        out = layer(
            hidden,
            attention_mask=block_mask(ids, ids),
            position_embeddings=rotary(hidden, position_ids=ids),
        )
        out.sum().backward()
    assert out.device == CUDA and out.shape == hidden.shape
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)
