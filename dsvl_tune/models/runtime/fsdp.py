"""A model cut over processes: built without its weights, sharded, and filled with each process's own rows of them.

FSDP2 (`fully_shard`) cuts every tensor by its first axis; a process holds its rows and gathers the others of a layer
while it computes with that layer. No process ever holds the whole model, not when loading either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
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

from dsvl_tune.families.deepseek_vl.parts import part_of
from dsvl_tune.models.checkpoint.load import finish_model, read_config
from dsvl_tune.models.checkpoint.weights import CLASSES, Weights
from dsvl_tune.models.finetuning.quantization import Quantization, check_widths, empty_layers, pack


def empty_model(
    folder: Path, dtype: torch.dtype = torch.float32, quantization: Quantization | None = None
) -> PreTrainedModel:
    """The model of a checkpoint with its parameters on the meta device, in eval mode.

    Args:
        folder: of the checkpoint. dtype: of what is not quantised. quantization: of the language model's linear layers.

    Raises:
        UserError: not a DeepSeek-VL checkpoint, or one that cannot be put into 4 bits.
    """
    config = read_config(folder)
    with torch.device("meta"):
        model = CLASSES[config.model_type](config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    compute_buffers(model)
    if quantization is not None:
        check_widths(Weights(folder, config))
        empty_layers(model, dtype)
    return finish_model(model, folder).eval()


def compute_buffers(model: PreTrainedModel) -> None:
    """Give buffers that no checkpoint holds (positions, rotary frequencies) their values, by transformers' own rules.

    Left on the meta device, or merely allocated, they would hold anything.
    """
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
            module._is_hf_initialized = False  # asks for the rules to be applied
    model.initialize_weights()
    assert not any(buffer.is_meta for buffer in model.buffers())


@contextmanager
def drawable(model: PreTrainedModel, parts: set[str]) -> Iterator[None]:
    """Let adapters be drawn for an empty model's parts as for a loaded one.

    peft puts what it draws beside the base's weights, where on the meta device the values would be lost. So within the
    block each of these weights is one zero seen everywhere: on the CPU, in its dtype, without its memory. In 4 bits,
    which DoRA unpacks, it is zeros packed once for all layers of a shape.
    """
    layers = [
        m
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and part_of(f"{name}.") in parts
    ]
    weights = [layer.weight for layer in layers]
    packed_zeros = cache(lambda *shape: pack(torch.zeros(shape)))
    for layer, weight in zip(layers, weights, strict=True):
        if weight.dtype == torch.uint8:
            layer.weight = packed_zeros(layer.out_features, layer.in_features)
            continue
        zeros = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
        layer.weight = nn.Parameter(zeros, requires_grad=False)
    yield
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = weight.requires_grad_(layer.weight.requires_grad)


def shard(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Cut every parameter over the processes of a mesh; a layer is gathered while it computes.

    A model stays in the class that it has, and gets a method `run` that calls a function with the model's own
    parameters gathered, which a call of `forward` alone would do. The head is among these: its loss and gradients are
    computed in chunks of tokens, which a layer that is gathered and freed at each call would not survive.
    """
    units = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not model.config.tie_word_embeddings:
        units.append(model.get_input_embeddings())
    for unit in units:
        fully_shard(unit, mesh=mesh)
    # Although the root's are needed first in the backward pass: what is not resharded stays whole after validation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.run = MethodType(call, model)
    register_fsdp_forward_method(model, "run")
    model._is_fsdp_managed_module = (
        True  # `generate` then goes on until every process has its answer
    )


def call(model: PreTrainedModel, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` with the model as its first argument."""
    return function(model, *arguments)


def fill(model: PreTrainedModel, weights: Weights, dtype: torch.dtype = torch.float32) -> None:
    """Read this process's rows of every tensor of the checkpoint into a sharded empty model.

    Adapters keep what was drawn; the magnitudes of DoRA are those of the base's rows. A layer in 4 bits is read and
    packed whole, because its scales are of the whole tensor, and cut before the next one is read. Every process keeps
    the scales, a thirtieth of what is packed.

    Args:
        model: sharded. weights: of its checkpoint. dtype: as the model was built in; what trains has these values too.
    """
    model._apply(
        lambda t: torch.empty_like(t, device=t.device_mesh.device_type) if t.is_meta else t
    )
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if "lora_" in name:
            continue
        source = name.replace(".base_layer.", ".")
        adapted, _, _ = name.rpartition("base_layer.weight")
        magnitude = (
            parameters.get(f"{adapted}lora_magnitude_vector.default.weight") if adapted else None
        )
        with torch.no_grad():
            if parameter.dtype == torch.uint8:
                packed = pack(weights.read(source).to(dtype))
                if magnitude is not None:
                    values = dequantize_bnb_weight(packed)[own_rows(magnitude)]
                fill_packed(model.get_submodule(name.removesuffix(".weight")), packed)
            else:
                values = weights.read(source, own_rows(parameter)).to(dtype)
                local(parameter).copy_(values)
            if magnitude is not None:
                local(magnitude).copy_(
                    torch.linalg.norm(values, dim=1)
                )  # arXiv 2402.09353, section 4.1


def fill_packed(layer: nn.Linear, packed: Any) -> None:
    """Put this process's bytes of a weight in 4 bits into a sharded layer, and all its scales."""
    own = local(layer.weight)
    own.copy_(packed.data[own_rows(layer.weight)])
    packed.quant_state.to(own.device)
    layer.quant_state = packed.quant_state


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has cut the model."""
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds; all of a tensor that is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> slice:
    """Which rows those are: FSDP2 cuts as `torch.chunk` does, so the last processes may have fewer or none."""
    if not isinstance(tensor, DTensor):
        return slice(None)
    size = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * size, tensor.shape[0])
    return slice(start, start + tensor.to_local().shape[0])


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, gathered on every process; every process must call it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as another of its shape is; as it is where that is not cut, or this is already."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    rows = tensor[own_rows(like)].to(
        like.to_local().device, copy=True
    )  # not a view, which would keep all of it
    return DTensor.from_local(
        rows,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
