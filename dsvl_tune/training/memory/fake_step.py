"""How much memory a training step takes, found by running it on tensors that have shapes but no storage.

torch's fake tensors go through the same modules, kernels' shapes and autograd as real ones, so what each layer keeps
for the backward pass, with and without checkpointing, needs no formula of ours. What is alive is counted as torch's own
`torch.distributed._tools.mem_tracker` does: every storage from the operation that makes it until nobody holds it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from dsvl_tune.models.runtime.activation_checkpointing import Checkpointed, checkpoint_activations
from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss


class RowShape(NamedTuple):
    """What a micro-batch holds: `rows` rows of `tokens` tokens with `images` images and `supervised` supervised tokens each."""

    rows: int
    tokens: int
    images: int
    supervised: int


class StepBytes(NamedTuple):
    """Memory of a step beside weights, gradients, optimizer state and pixels, in bytes.

    `vision`, `language_model` and `head` (with the loss) are kept for the backward pass, when their forward pass is
    done; `peak` is the most that is alive at any time, what is alive only for a moment counted.
    """

    vision: int
    language_model: int
    head: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made inside it: alive now (`live`), and at most (`peak`)."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = WeakIdKeyDictionary()
        for tensor in existing:
            self.known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self.known:
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        """Add a storage, until it is gone."""
        self.known[storage] = True
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        self.live -= size


def dry_steps(
    model: PreTrainedModel,
    shape: RowShape,
    precision: str,
    accumulates: bool,
    checkpointed: bool | Sequence[Checkpointed] = True,
) -> tuple[StepBytes, StepBytes]:
    """A step without and one with gradient checkpointing.

    Args:
        model: on the meta device, with the plan applied; afterwards it is of no other use.
        shape: of the micro-batch.
        precision: Lightning's, e.g. "bf16-mixed".
        accumulates: whether gradients of earlier micro-batches are still there in the backward pass.
        checkpointed: the parts of the second step, as `models.checkpointing` takes them.
    """
    with FakeTensorMode():
        fill_with_fakes(model)
        plain = dry_step(model, shape, precision, accumulates)
        checkpoint_activations(model, checkpointed)
        return plain, dry_step(model, shape, precision, accumulates)


def fill_with_fakes(model: nn.Module) -> None:
    """Replace every meta tensor by a fake one of the CPU: autocast and attention kernels are chosen by the device."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def dry_step(
    model: PreTrainedModel, shape: RowShape, precision: str, accumulates: bool
) -> StepBytes:
    """Forward and backward after an optimizer step, whose gradients are there until the forward is done."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [*model.parameters(), *model.buffers()]
    with LiveBytes(weights) as bytes_:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        pixels = make_pixels(model, shape)
        before = bytes_.live
        with autocast(precision):
            features = see(model, pixels)
            vision = bytes_.live - before
            hidden = read(model, shape, features)
            del features
            language_model = bytes_.live - before - vision
            loss = learn(model, shape, hidden)
            del hidden
            head = bytes_.live - before - vision - language_model
        if not accumulates:
            for parameter in trained:
                parameter.grad = None
        loss.backward()
        peak = bytes_.peak - before
        for parameter in trained:
            parameter.grad = None
    return StepBytes(vision, language_model, head, peak)


def autocast(precision: str) -> AbstractContextManager[Any]:
    """What Lightning's precision plugin puts around the forward pass."""
    return torch.autocast("cpu", torch.bfloat16) if precision.endswith("-mixed") else nullcontext()


def make_pixels(model: PreTrainedModel, shape: RowShape) -> dict[str, Tensor]:
    """Pixels of the micro-batch, all images distinct; empty without images."""
    config, images = model.config, shape.rows * shape.images
    towers = {"pixel_values": "vision_config", "high_res_pixel_values": "high_res_vision_config"}
    sizes = {
        name: getattr(config, tower).image_size
        for name, tower in towers.items()
        if hasattr(config, tower)
    }
    return (
        {name: torch.empty(images, 3, size, size) for name, size in sizes.items()} if images else {}
    )


def see(model: PreTrainedModel, pixels: dict[str, Tensor]) -> Tensor | None:
    """Visual tokens [M, V, D]."""
    return (
        model.model.get_image_features(**pixels, return_dict=True).pooler_output if pixels else None
    )


def read(model: PreTrainedModel, shape: RowShape, features: Tensor | None) -> Tensor:
    """Hidden states [B, T, D] of plain rows, visual tokens in their places as transformers puts them there.

    Layer by layer: transformers' own loop asks positions for their values, which fake ones do not have, and would then
    make a mask that plain rows do without.
    """
    decoder = model.model.language_model
    ids = torch.zeros(shape.rows, shape.tokens, dtype=torch.int64)
    hidden: Tensor = model.get_input_embeddings()(ids)
    if features is not None:
        places = torch.zeros_like(ids, dtype=torch.bool)[..., None].expand_as(hidden)
        hidden = hidden.masked_scatter(places, features.to(hidden.dtype))
    positions = decoder.rotary_emb(hidden, position_ids=ids[:1])
    for layer in decoder.layers:
        hidden = layer(hidden, None, ids[:1], use_cache=False, position_embeddings=positions)
    return decoder.norm(hidden)


def learn(model: PreTrainedModel, shape: RowShape, hidden: Tensor) -> Tensor:
    """The loss of the supervised positions, as `training.loss` takes it."""
    places = torch.zeros(shape.rows * shape.supervised, dtype=torch.int64)
    loss_sum, _ = head_loss(
        model.lm_head, hidden.flatten(0, 1)[places], places, torch.ones(len(places))
    )
    return loss_sum
