"""Message trees, the feature cache and partial plans with DeepSeek-VL2's tiles and experts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_deepseek_vl2 import SIZES, build_deepseek_vl2
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, Processor, part_of
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.batches import make_batch
from dsvl_tune.data.encoding.collate import collate, normalize_images
from dsvl_tune.data.encoding.tokenize import encode
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.families.deepseek_vl2.parts import PARTS, PRESETS
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import adapted_layers, apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.training.feature_cache import FeatureExtractor
from dsvl_tune.training.objectives.supervised import supervised_loss


@pytest.fixture(scope="module", params=list(SIZES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_deepseek_vl2(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return create_model(open_checkpoint(folder))


@pytest.fixture
def processor(folder: Path) -> Processor:
    return open_checkpoint(folder).processor


def picture(width: int, height: int) -> ImageRef:
    draw = torch.Generator().manual_seed(width * 100 + height)
    levels = torch.randint(0, 255, (height, width, 3), dtype=torch.uint8, generator=draw)
    return ImageRef(Image.fromarray(levels.numpy()), f"{width} x {height}")


LARGE, STRIP, SMALL = picture(90, 80), picture(130, 40), picture(30, 40)


def ask(*images: ImageRef, question: str = "What?", answer: str = "Two, or three.") -> Conversation:
    turns = (Turn("user", (*images, question)), Turn("assistant", (answer,)))
    return Conversation(turns, question)


ROWS = [
    [ask(LARGE, SMALL), ask(LARGE, SMALL, question="How many bars?")],
    [ask(STRIP, question="And this?")],
    [ask(STRIP, LARGE, SMALL)],
    [ask(question="Hello")],
]


@pytest.mark.parametrize("pack_tokens", [None, 200])
def test_a_batch_equals_its_conversations_alone(
    model: PreTrainedModel, processor: Processor, pack_tokens: int | None
) -> None:
    """Trees and packed rows; one picture is cut in one row and whole in another."""
    batch = normalize_images(make_batch(ROWS, processor, None, "error", pack_tokens), processor)
    grids = sorted(batch.vision_inputs["image_grids"].tolist())
    assert grids == [[1, 1], [1, 1], [1, 1], [2, 2], [3, 1]]
    alone = 0.0
    for row in ROWS:
        for conversation in row:
            one = collate([encode(conversation, processor)], processor.pad_id)
            alone += supervised_loss(model, normalize_images(one, processor)).loss.item()
    assert supervised_loss(model, batch).loss.item() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("projector", ["frozen", "full"])
def test_cached_features_change_nothing(
    model: PreTrainedModel, processor: Processor, tmp_path: Path, projector: str
) -> None:
    """Newline and separator train behind the cache: their gradients are the same."""
    family = processor.family
    plan = make_plan(
        family,
        "none",
        {
            "projector": PartPlan(projector),  # type: ignore[arg-type]
            "tile_embeddings": PartPlan("full"),
        },
    )
    apply_plan(model, plan)
    producers = family.cacheable_features(plan)
    shapes = family.feature_shapes(model.config, set(producers))
    cache = TensorCache(tmp_path, "one", shapes, torch.float32, 1 << 30)
    extractor = FeatureExtractor(model, family, producers, cache)
    found = []
    for loader in (None, ImageLoader(cache), ImageLoader(cache)):
        batch = normalize_images(
            make_batch(ROWS, processor, None, "error", loader=loader), processor
        )
        if loader is not None:
            batch = extractor.with_features(batch, nullcontext())
            assert not batch.vision_inputs
        model.zero_grad()
        loss = supervised_loss(model, batch).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one is not None and two is not None
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_trained_tower_is_not_cached(processor: Processor) -> None:
    with pytest.raises(UserError, match="siglip trains"):
        processor.family.cacheable_features(make_plan(DEEPSEEK_VL2, "sft", None))


def test_presets_train_what_they_name(folder: Path) -> None:
    for preset, plan in PRESETS.items():
        if not plan:
            continue
        model = create_model(open_checkpoint(folder))
        apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL2, preset, None), model, set()))
        trained = {part_of(name, PARTS) for name, p in model.named_parameters() if p.requires_grad}
        assert trained == set(plan)
        assert ("router" in trained) == (preset == "full")


def test_adapters_are_where_the_plan_says(folder: Path, model: PreTrainedModel) -> None:
    """Not on routed experts or the router, which peft would choose for a deepseek_v3."""
    apply_plan(model, make_plan(DEEPSEEK_VL2, "lora", None))
    layers = adapted_layers(model)
    assert not any(".experts." in name.replace("shared_experts", "") for name in layers)
    assert not any(name.endswith(".gate") for name in layers)
    shared = [name for name in layers if "shared_experts" in name]
    dense = [name for name in layers if ".layers.0.mlp." in name]
    attention = [name for name in layers if "self_attn" in name]
    assert (len(shared), len(dense), len(attention)) == (2 * 3, 3, 3 * 4)


def test_nothing_moves_the_correction_bias(tmp_path: Path) -> None:
    model = create_model(open_checkpoint(build_deepseek_vl2(tmp_path, "base")))
    apply_plan(model, make_plan(DEEPSEEK_VL2, "full", None))
    biases = {name for name in model.state_dict() if "correction" in name}
    assert len(biases) == 2 and not biases & {name for name, _ in model.named_parameters()}


def test_recomputed_layers_have_the_same_gradients(
    model: PreTrainedModel, processor: Processor
) -> None:
    from dsvl_tune.models.runtime.activation_checkpointing import checkpoint_activations

    batch = normalize_images(make_batch(ROWS, processor, None, "error"), processor)
    found, kept = [], []
    for chosen in (False, ["siglip"], ["attention"]):
        checkpoint_activations(model.train(), chosen)
        model.zero_grad()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: (sizes.append(tensor.numel()), tensor)[1], lambda t: t
        ):
            loss = supervised_loss(model, batch).loss
        kept.append(sum(sizes))
        loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert kept[0] > kept[1] > kept[2]
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(grad, other[name]) for name, grad in found[0].items())
    with pytest.raises(UserError, match="unknown part 'experts'"):
        checkpoint_activations(model, ["experts"])
