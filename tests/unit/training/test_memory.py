"""What a step keeps in memory.

Activations of what trains alone, activation checkpointing by part, no needless copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import ReferenceType, ref

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Batch, Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.batches import make_batch
from dsvl_tune.data.encoding.collate import normalize_images
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.runtime.activation_checkpointing import checkpoint_activations
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.objectives.supervised import supervised_loss
from dsvl_tune.training.optim import make_optimizer


def batch_of(checkpoint: Path) -> Batch:
    """Two questions about one picture, and text."""
    picture = ImageRef(Image.effect_noise((40, 30), 60), "noise")
    asked = [(picture, "What?"), (picture, "How many?"), ("Hi",)]
    rows = [
        Conversation((Turn("user", parts), Turn("assistant", ("Yes.",))), "row") for parts in asked
    ]
    processor = open_checkpoint(checkpoint).processor
    return normalize_images(make_batch([rows[:2], rows[2:]], processor, None, "error"), processor)


def network(checkpoint: Path, **modes: str) -> PreTrainedModel:
    """The model in training mode with those parts trained; adapters do something from the start."""
    torch.manual_seed(0)
    model = create_model(open_checkpoint(checkpoint))
    parts = {part: PartPlan(mode) for part, mode in modes.items()}  # type: ignore[arg-type]
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, "none", parts), model, set()))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


MODULES = {
    "siglip": "vision_model",
    "sam": "high_res_vision_model",
    "language_model": "language_model",
}
"""Attribute of the model that holds the layers of each part."""


@dataclass
class Kept:
    """A tensor that autograd keeps for the backward pass."""

    tensor: Tensor


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[tuple[Counter[str], Callable[[], Counter[str]]]]:
    """Calls of the first layer of each part, and a function for the bytes autograd keeps for it."""
    runs, inside, kept = Counter[str](), [""], list[tuple[str, ReferenceType[Kept]]]()
    hooks = []

    def pack(tensor: Tensor) -> Kept:
        holder = Kept(tensor)
        if not isinstance(tensor, nn.Parameter):
            kept.append((inside[-1], ref(holder)))
        return holder

    def held() -> Counter[str]:
        found = Counter[str]()
        for part, reference in kept:
            if part and (holder := reference()) is not None:
                found[part] += holder.tensor.nbytes
        return found

    for part, name in MODULES.items():
        module = getattr(model.model, name)
        (layers,) = (m for m in module.modules() if isinstance(m, nn.ModuleList))
        hooks += [
            module.register_forward_pre_hook(lambda *_, part=part: inside.append(part)),
            module.register_forward_hook(lambda *_: inside.pop() and None),
            next(layers[0].children()).register_forward_pre_hook(
                lambda *_, part=part: runs.update([part])
            ),
        ]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        yield runs, held
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("modes", "keeps"),
    [
        ({"language_model": "lora"}, {"language_model"}),
        ({"aligner": "full"}, {"language_model"}),
        ({"sam_neck_hd": "full", "downsample": "full", "aligner": "lora"}, {"language_model"}),
        ({"siglip": "lora"}, {"siglip", "language_model"}),
        ({"sam": "lora"}, {"sam", "language_model"}),
        ({"lm_head": "full"}, set()),
    ],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_what_nothing_trains_in_or_before_keeps_no_activations(
    hybrid_checkpoint: Path, modes: dict[str, str], keeps: set[str], recompute: bool
) -> None:
    """The trap: transformers' checkpointing of the whole model reruns frozen towers as well."""
    model = network(hybrid_checkpoint, **modes)
    checkpoint_activations(model, recompute)
    with watched(model) as (runs, held):
        loss = supervised_loss(model, batch_of(hybrid_checkpoint)).loss
        assert set(held()) == keeps
        loss.backward()
    assert runs == {part: 1 + (recompute and part in keeps) for part in MODULES}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {
        name for name, parameter in model.named_parameters() if parameter.grad is not None
    } == trained


def test_checkpointing_by_part_keeps_less_and_changes_no_gradient(hybrid_checkpoint: Path) -> None:
    batch = batch_of(hybrid_checkpoint)
    plain: dict[str, Tensor] = {}
    kept: dict[str, Counter[str]] = {}
    for parts in (False, ("siglip",), ("sam",), ("language_model",), True):
        model = network(
            hybrid_checkpoint, siglip="lora", sam="lora", language_model="lora", aligner="full"
        )
        checkpoint_activations(model, parts)
        with watched(model) as (_, held):
            loss = supervised_loss(model, batch).loss
            kept[str(parts)] = held()
            loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        plain = plain or gradients
        assert gradients.keys() == plain.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-5, msg=name)
        chosen = MODULES if parts is True else parts or ()
        assert all(
            (kept[str(parts)][part] < kept["False"][part]) == (part in chosen) for part in MODULES
        )


def test_a_part_that_the_model_lacks_is_named() -> None:
    model = create_model(
        open_checkpoint(Path(__file__).parents[2] / "golden" / "siglip" / "checkpoint")
    )
    with pytest.raises(
        UserError, match=r"gradient_checkpointing: .*no sam; it has siglip, language_model"
    ):
        checkpoint_activations(model, ("sam",))


def test_frozen_weights_keep_their_dtype_and_the_optimizer_holds_what_trains(
    hybrid_checkpoint: Path,
) -> None:
    parts = {"language_model": PartPlan("lora"), "aligner": PartPlan("full")}
    module = FinetuneModule(str(hybrid_checkpoint), "none", parts, dtype="bfloat16")
    module.configure_model()
    trained = {name: p for name, p in module.network.named_parameters() if p.requires_grad}
    frozen = [p for p in module.network.parameters() if not p.requires_grad]
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    optimizer = make_optimizer(
        module.network, module.plan, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = supervised_loss(module.network, batch_of(hybrid_checkpoint)).loss
    loss.backward()
    optimizer.step()
    assert {id(p) for p in optimizer.state} == {id(p) for p in trained.values()}
    assert all(p.grad is None for p in frozen)


@torch.no_grad()
def test_every_distinct_image_is_encoded_once_over_packed_rows(hybrid_checkpoint: Path) -> None:
    model = network(hybrid_checkpoint, aligner="full")
    seen: list[int] = []
    model.model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0])), with_kwargs=True
    )
    encode_images(model, batch_of(hybrid_checkpoint))
    assert seen == [1]
