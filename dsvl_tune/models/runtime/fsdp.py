"""A model sharded over processes: created empty, sharded, and filled with each process's own rows.

FSDP2 (`fully_shard`) divides every tensor along its first axis; a process holds its rows and
gathers the others of a layer while it computes with that layer. No process ever holds the whole
model, not when loading either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MethodType
from typing import Any

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dsvl_tune.core.family import part_of
from dsvl_tune.families import family_of_model
from dsvl_tune.families.experts import StackedExperts
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.four_bit_experts import FourBitExperts
from dsvl_tune.models.finetuning.nf4_packing import pack
from dsvl_tune.models.finetuning.trained_files import base_name


@contextmanager
def adapter_initialization(model: PreTrainedModel, adapted: set[str]) -> Iterator[None]:
    """Let adapters be initialized for an empty model as for a loaded one.

    peft creates them on the device of the base's weights; on the meta device their random values
    would be lost. So within the block each of these weights is a single zero, expanded: on the CPU,
    in its dtype, without its memory. In 4 bits, which DoRA unpacks, it is zeros that are packed
    once for all layers of a shape.

    Args:
        model: on the meta device.
        adapted: parts that get adapters.
    """
    parts = family_of_model(model).parts
    places = [
        (module, name, parameter)
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, StackedExperts))
        and not isinstance(module, FourBitExperts)  # for these, see `shaped_stacks`
        and part_of(f"{path}.", parts) in adapted
        for name, parameter in module.named_parameters(recurse=False)
    ]
    packed_zeros = cache(lambda *shape: pack(torch.zeros(shape)))
    for module, name, parameter in places:
        if parameter.dtype == torch.uint8:
            setattr(module, name, packed_zeros(module.out_features, module.in_features))
            continue
        zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
        setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    yield
    for module, name, parameter in places:
        trained = getattr(module, name).requires_grad
        setattr(module, name, parameter.requires_grad_(trained))


def shard(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Divide every parameter over the processes of a mesh; a layer is gathered while it computes.

    The model keeps its class, and gets a method `run` that calls a function with the model's own
    parameters gathered, which otherwise only a call of `forward` does. The head is among these: its
    loss and gradients are computed in chunks of tokens, for which a layer that is gathered and
    freed at each call does not work.
    """
    units = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not model.config.tie_word_embeddings:
        units.append(model.get_input_embeddings())
    for unit in units:
        fully_shard(unit, mesh=mesh)
    # Although the root's parameters are needed first in the backward pass: what is not resharded
    # stays whole after validation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.run = MethodType(call, model)
    register_fsdp_forward_method(model, "run")
    # `generate` then continues until every process has its answer.
    model._is_fsdp_managed_module = True


def call(model: PreTrainedModel, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` with the model as its first argument."""
    return function(model, *arguments)


def fill(model: PreTrainedModel, weights: Weights, dtype: torch.dtype = torch.float32) -> None:
    """Read this process's rows of every tensor of the checkpoint into an empty model.

    Adapters keep their initial values; the magnitudes of DoRA are those of the base's rows. A
    weight in 4 bits is read and packed whole, because its scales belong to the whole tensor, and
    divided before the next one is read. Every process keeps the scales, a thirtieth of what is
    packed.

    Args:
        model: on the meta device, sharded or not.
        weights: of its checkpoint.
        dtype: that the model was created in; the base values of what trains have it too.
    """
    sharded = (parameter for parameter in model.parameters() if isinstance(parameter, DTensor))
    device = next((parameter.device_mesh.device_type for parameter in sharded), "cpu")
    model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t)
    if not is_sharded(model):
        model.tie_weights()  # tensors that modules share have become several
    for name, buffer in model.named_buffers():
        if name in weights.shapes:  # every process keeps the whole of it
            buffer.copy_(weights.read(name))
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if "lora_" in name:
            continue
        source = base_name(name)
        magnitude = None
        if name.endswith("base_layer.weight"):
            adapted = name.removesuffix("base_layer.weight")
            magnitude = parameters.get(f"{adapted}lora_magnitude_vector.default.weight")
        with torch.no_grad():
            if parameter.dtype == torch.uint8:
                packed = pack(weights.read(source).to(dtype))
                if magnitude is not None:
                    values = dequantize_bnb_weight(packed)[own_rows(magnitude)]
                module, _, leaf = name.rpartition(".")
                fill_packed(model.get_submodule(module), leaf, packed)
            else:
                values = weights.read(source, own_rows(parameter)).to(dtype)
                local(parameter).copy_(values)
            if magnitude is not None:
                # arXiv 2402.09353, section 4.1
                local(magnitude).copy_(torch.linalg.norm(values, dim=1))


def fill_packed(module: Any, name: str, packed: Any) -> None:
    """Put a weight in 4 bits into its empty place: this process's rows of it, and all scales.

    Args:
        module: a linear layer or experts.
        name: of the weight in the module.
        packed: from `pack`.
    """
    parameter = getattr(module, name)
    if isinstance(parameter, DTensor):
        own = local(parameter)
        own.copy_(packed.data[own_rows(parameter)])
        packed.quant_state.to(own.device)
    else:
        setattr(module, name, packed)
    if isinstance(module, FourBitExperts):
        module.quant_states[name] = packed.quant_state
    else:
        module.quant_state = packed.quant_state


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has divided the model."""
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds; all of a tensor that is not sharded.

    Args:
        tensor: [N, ...], any dtype.

    Returns:
        [N_local, ...], without a copy.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> slice:
    """Which rows of [N, ...], any dtype, `local` gives.

    FSDP2 divides as `torch.chunk` does, so the last processes may have fewer rows or none.
    """
    if not isinstance(tensor, DTensor):
        return slice(None)
    size = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * size, tensor.shape[0])
    return slice(start, start + tensor.to_local().shape[0])


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, gathered on every process; every process must call it.

    Args:
        tensor: [N, ...] of any dtype, sharded or not.

    Returns:
        [N, ...], same dtype, detached.
    """
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor sharded as another of its shape.

    Args:
        tensor: [N, ...] of any dtype, whole or already sharded.
        like: [N, ...]; where it is not sharded, `tensor` is returned as it is.

    Returns:
        [N, ...], of the same values and dtype.
    """
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    # Not a view, which would keep all of it in memory.
    rows = tensor[own_rows(like)].to(like.to_local().device, copy=True)
    return DTensor.from_local(
        rows,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
