"""The memory of a training step, measured by running it on tensors with shapes but no storage.

torch's fake tensors go through the same modules, kernels' shapes and autograd as real ones, so what
each layer keeps for the backward pass, with and without activation checkpointing, needs no formula
of ours. Live bytes are counted as by torch's own `torch.distributed._tools.mem_tracker`: every
storage from the operation that creates it until it is freed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from dsvl_tune.families import family_of_model
from dsvl_tune.models.runtime.activation_checkpointing import checkpoint_activations
from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss


class RowShape(NamedTuple):
    """What a micro-batch holds.

    Attributes:
        rows: number of rows.
        tokens: of each row.
        images: of each row.
        supervised: supervised tokens of each row.
    """

    rows: int
    tokens: int
    images: int
    supervised: int


class StepBytes(NamedTuple):
    """Memory of a step in bytes, without weights, gradients, optimizer state and vision inputs.

    Attributes:
        vision: kept for the backward pass after the forward pass of the vision side.
        language_model: likewise.
        head: likewise, with the loss.
        peak: the most that is alive at any time.
    """

    vision: int
    language_model: int
    head: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages created inside it.

    Args:
        existing: tensors that are not counted.

    Attributes:
        live: bytes alive now.
        peak: the most that was alive.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.known = WeakIdKeyDictionary()
        for tensor in existing:
            self.known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self.known:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        self.known[storage] = True
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.live -= size


def dry_steps(
    model: PreTrainedModel,
    shape: RowShape,
    *,
    precision: str,
    accumulates: bool,
    gradient_checkpointing: bool | Sequence[str] = True,
) -> tuple[StepBytes, StepBytes]:
    """A step without and one with activation checkpointing.

    Args:
        model: on the meta device, with the plan applied; it cannot be used afterwards.
        shape: of the micro-batch.
        precision: Lightning's, e.g. "bf16-mixed".
        accumulates: whether gradients of earlier micro-batches are still there in the backward
            pass.
        gradient_checkpointing: the model parts of the second step, see `checkpoint_activations`.
    """
    with FakeTensorMode():
        fill_with_fakes(model)
        plain = dry_step(model, shape, precision, accumulates)
        checkpoint_activations(model, gradient_checkpointing)
        return plain, dry_step(model, shape, precision, accumulates)


def fill_with_fakes(model: nn.Module) -> None:
    """Replace every meta tensor by a fake one on the CPU.

    Autocast and attention kernels are chosen by the device.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def dry_step(
    model: PreTrainedModel, shape: RowShape, precision: str, accumulates: bool
) -> StepBytes:
    """Forward and backward pass after an optimizer step.

    The gradients of the optimizer step are alive until the forward pass is done.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [*model.parameters(), *model.buffers()]
    with LiveBytes(weights) as memory:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        vision_inputs = make_vision_inputs(model, shape)
        before = memory.live
        with autocast(precision):
            features = encode(model, vision_inputs)
            vision = memory.live - before
            hidden = decode(model, shape, features)
            del features
            language_model = memory.live - before - vision
            loss = supervise(model, shape, hidden)
            del hidden
            head = memory.live - before - vision - language_model
        if not accumulates:
            for parameter in trained:
                parameter.grad = None
        loss.backward()
        peak = memory.peak - before
        for parameter in trained:
            parameter.grad = None
    return StepBytes(vision, language_model, head, peak)


def autocast(precision: str) -> AbstractContextManager[Any]:
    """The context that Lightning's precision plugin puts around the forward pass."""
    return torch.autocast("cpu", torch.bfloat16) if precision.endswith("-mixed") else nullcontext()


def make_vision_inputs(model: PreTrainedModel, shape: RowShape) -> dict[str, Any]:
    """Vision inputs of the micro-batch, all images distinct and of the costliest size; {} without.

    Returns:
        By name [I * C, ...] float32; and inputs whose values decide shapes as arrays of NumPy,
        because fake tensors have no values.
    """
    images = shape.rows * shape.images
    if not images:
        return {}
    cost = family_of_model(model).image_cost(model.config, shape.images)
    inputs = {
        name: torch.empty(images * crops, *rest) for name, (crops, *rest) in cost.inputs.items()
    }
    return {**inputs, **{name: np.array(rows * images) for name, rows in cost.values.items()}}


def encode(model: PreTrainedModel, vision_inputs: dict[str, Any]) -> Tensor | None:
    """Encode all images.

    Args:
        model: with fake weights.
        vision_inputs: by name [sum of C, ...] float32, as the family normalizes them.

    Returns:
        Visual tokens [I, V, D] or [*, D] in the model's dtype; None without images.
    """
    if not vision_inputs:
        return None
    tokens = family_of_model(model).encode_images(model, vision_inputs)
    return tokens if isinstance(tokens, Tensor) else torch.cat(list(tokens))


def decode(model: PreTrainedModel, shape: RowShape, features: Tensor | None) -> Tensor:
    """Hidden states of plain rows, visual tokens in their places as transformers puts them there.

    Layer by layer: transformers' own loop reads the values of positions, which fake tensors do not
    have, and would then create a mask that plain rows do without.

    Args:
        model: with fake weights.
        shape: of the micro-batch.
        features: visual tokens of all images, [I, V, D] or [*, D] in the model's dtype.

    Returns:
        [B, T, D] in the model's dtype.
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


def supervise(model: PreTrainedModel, shape: RowShape, hidden: Tensor) -> Tensor:
    """The loss of the supervised positions, as the supervised objective computes it.

    Args:
        model: with fake weights.
        shape: of the micro-batch.
        hidden: [B, T, D] in the model's dtype.

    Returns:
        A float32 scalar.
    """
    places = torch.zeros(shape.rows * shape.supervised, dtype=torch.int64)
    loss_sum, _ = head_loss(
        model.lm_head, hidden.flatten(0, 1)[places], places, torch.ones(len(places))
    )
    return loss_sum
