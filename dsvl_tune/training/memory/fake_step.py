"""How much memory a training step takes, measured by running it on tensors without storage.

torch's fake tensors pass the same modules, kernels' shapes and autograd as real ones, so what each
layer keeps for the backward pass, with and without activation checkpointing, needs no formula of
ours. Memory is counted as in torch's own `torch.distributed._tools.mem_tracker`: every storage from
the operation that makes it until nothing refers to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

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
        tokens: of each row, those of its images included.
        images: of each row.
        supervised: tokens of each row that are trained on.
    """

    rows: int
    tokens: int
    images: int
    supervised: int


class StepBytes(NamedTuple):
    """Memory of a step besides weights, gradients, optimizer state and vision inputs, in bytes.

    Attributes:
        vision: what the vision side keeps for the backward pass.
        language_model: what the language model keeps for it.
        head: what the head and the loss keep for it.
        peak: the most that is alive at any time, temporary tensors included.
    """

    vision: int
    language_model: int
    head: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made inside it.

    Args:
        existing: tensors whose storages do not count.

    Attributes:
        live: bytes that are alive now.
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
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        """Add a storage, until it is freed."""
        self.known[storage] = True
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        """Subtract a storage."""
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
        accumulates: whether gradients of earlier micro-batches are still alive in the backward
            pass.
        gradient_checkpointing: the parts of the second step, as `checkpoint_activations` takes
            them.
    """
    with FakeTensorMode():
        fill_with_fakes(model)
        plain = dry_step(model, shape, precision, accumulates)
        checkpoint_activations(model, gradient_checkpointing)
        return plain, dry_step(model, shape, precision, accumulates)


def fill_with_fakes(model: nn.Module) -> None:
    """Replace every meta tensor by a fake one of the CPU.

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
    """Forward and backward after an optimizer step, whose gradients live until the forward ends."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [*model.parameters(), *model.buffers()]
    with LiveBytes(weights) as counter:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        inputs = make_vision_inputs(model, shape)
        before = counter.live
        with autocast(precision):
            features = encode_images(model, inputs)
            vision = counter.live - before
            hidden = decode(model, shape, features)
            del features
            language_model = counter.live - before - vision
            loss = compute_loss(model, shape, hidden)
            del hidden
            head = counter.live - before - vision - language_model
        if not accumulates:
            for parameter in trained:
                parameter.grad = None
        loss.backward()
        peak = counter.peak - before
        for parameter in trained:
            parameter.grad = None
    return StepBytes(vision, language_model, head, peak)


def autocast(precision: str) -> AbstractContextManager[Any]:
    """What Lightning's precision plugin puts around the forward pass."""
    return torch.autocast("cpu", torch.bfloat16) if precision.endswith("-mixed") else nullcontext()


def make_vision_inputs(model: PreTrainedModel, shape: RowShape) -> dict[str, Tensor]:
    """Vision inputs of the micro-batch, all images distinct.

    Returns:
        Each [crops of all images, ...] float32; {} without images.
    """
    images = shape.rows * shape.images
    if not images:
        return {}
    inputs = family_of_model(model).image_cost(model.config, shape.images).inputs
    return {name: torch.empty(images * crops, *sizes) for name, (crops, *sizes) in inputs.items()}


def encode_images(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Visual tokens of the micro-batch.

    Args:
        model: with fake parameters.
        inputs: from `make_vision_inputs`.

    Returns:
        [visual tokens of all images, D]; None without images.
    """
    if not inputs:
        return None
    tokens = family_of_model(model).encode_images(model, inputs)
    if not isinstance(tokens, Tensor):
        return torch.cat(list(tokens))
    return tokens


def decode(model: PreTrainedModel, shape: RowShape, features: Tensor | None) -> Tensor:
    """Hidden states of plain rows, visual tokens in their places as transformers puts them there.

    Layer by layer: transformers' own loop asks positions for their values, which fake ones do not
    have, and would then make a mask that plain rows do without.

    Args:
        model: with fake parameters.
        shape: of the micro-batch.
        features: [..., D], or None.

    Returns:
        [B, T, D].
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


def compute_loss(model: PreTrainedModel, shape: RowShape, hidden: Tensor) -> Tensor:
    """The loss of the supervised positions, as in `training.objectives.supervised`.

    Args:
        model: with fake parameters.
        shape: of the micro-batch.
        hidden: [B, T, D].

    Returns:
        Scalar.
    """
    places = torch.zeros(shape.rows * shape.supervised, dtype=torch.int64)
    loss_sum, _ = head_loss(
        model.lm_head, hidden.flatten(0, 1)[places], places, torch.ones(len(places))
    )
    return loss_sum
