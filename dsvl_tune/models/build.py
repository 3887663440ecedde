"""The model of a run: loaded (in 4 bits), adapted, its kernels, checkpointed, compiled, sharded; in this order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from dsvl_tune.families.deepseek_vl.parts import Plan, fit_plan
from dsvl_tune.models.checkpoint.load import load_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import Variant, apply_plan
from dsvl_tune.models.finetuning.quantization import Quantization
from dsvl_tune.models.runtime.activation_checkpointing import Checkpointed, checkpoint_activations
from dsvl_tune.models.runtime.attention_mask import Attention, use_attention
from dsvl_tune.models.runtime.compile import compile_layers
from dsvl_tune.models.runtime.fsdp import drawable, empty_model, fill, shard


def adapted_model(
    folder: Path,
    requested: Plan,
    overridden: set[str],
    dtype: torch.dtype,
    variant: Variant,
    dropout: float,
    quantization: Quantization | None,
    empty: bool = False,
) -> tuple[PreTrainedModel, Plan]:
    """A checkpoint's model with a plan applied, and that plan: the entries of `requested` for the parts it has.

    Args:
        folder: the checkpoint's. requested, overridden: as `parts.fit_plan` takes them. dtype: of what is frozen.
        variant, dropout: of the adapters. quantization: of the base, or None.
        empty: without the checkpoint's weights, on the meta device.

    Raises:
        UserError: the checkpoint is no good, or does not have what is asked for.
    """
    model = (
        empty_model(folder, dtype, quantization)
        if empty
        else load_model(folder, dtype, quantization)
    )
    plan = fit_plan(requested, model, overridden)
    with drawable(
        model, {part for part, how in plan.items() if how.mode == "lora"} if empty else set()
    ):
        apply_plan(model, plan, variant, dropout)
    return model, plan


def build_model(
    adapted: Callable[..., tuple[PreTrainedModel, Plan]],
    quantization: Quantization | None,
    checkpointed: bool | Sequence[Checkpointed],
    attention: Attention,
    compiled: bool,
    dtype: torch.dtype,
    mesh: DeviceMesh | None,
) -> tuple[PreTrainedModel, Plan]:
    """The model in training mode, and its plan.

    Over a mesh every process keeps its own rows of the weights alone.

    Args:
        adapted: `adapted_model` up to `quantization`. mesh: the processes to shard over, or None.
        The others are the keys of `FinetuneModule` of these names.

    Raises:
        UserError: as `adapted_model`, or no such part or kernel.
    """
    model, plan = adapted(quantization, empty=mesh is not None)
    use_attention(model, attention)
    checkpoint_activations(model, checkpointed)
    if compiled:
        compile_layers(model)
    if mesh is not None:
        shard(model, mesh)
        fill(model, Weights(Path(model.name_or_path), model.config), dtype)
    return (
        model.train(),
        plan,
    )  # loading gives eval mode, which would switch the adapters' dropout off
