"""The model of a run: created, adapted, its activations checkpointed, compiled, sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.family import Family, PartPlan, Plan
from dsvl_tune.kernels.install import Kernels, remove_kernels
from dsvl_tune.models.checkpoint.load import Storage, create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import Variant, apply_plan
from dsvl_tune.models.finetuning.expert_adapters import check_expert_adapters
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.finetuning.quantization import Quantization, check_quantization
from dsvl_tune.models.runtime.activation_checkpointing import checkpoint_activations
from dsvl_tune.models.runtime.attention_mask import Attention, use_attention
from dsvl_tune.models.runtime.compile import compile_layers
from dsvl_tune.models.runtime.fsdp import adapter_initialization, fill, shard


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What a run trains of its base checkpoint, and in which precision.

    Attributes:
        preset: name of one of the family's plans.
        parts: overrides of the preset, part by part.
        dtype: of frozen weights.
        quantization: of the language model's linear layers, or None.
        variant: of the adapters.
        dropout: 0..1, on the adapters' input.
        seed: of the adapters' initial values, which depend on no other draw.
    """

    preset: str
    parts: Mapping[str, PartPlan]
    dtype: torch.dtype = torch.float32
    quantization: Quantization | None = None
    variant: Variant = "lora"
    dropout: float = 0.0
    seed: int = 0

    def requested_plan(self, family: Family) -> Plan:
        """The plan for every part of the family.

        Raises:
            UserError: there is no such preset or part, or one that cannot be trained like this.
        """
        plan = make_plan(family, self.preset, self.parts)
        check_expert_adapters(plan, family.parts, self.variant, self.dropout)
        if self.quantization is not None:
            check_quantization(plan, family.parts)
        return plan


def adapted_model(
    checkpoint: Checkpoint, adaptation: Adaptation, storage: Storage = "loaded"
) -> tuple[PreTrainedModel, Plan]:
    """A checkpoint's model with a plan applied, and the plan of the parts that it has.

    Args:
        checkpoint: the base.
        adaptation: what trains.
        storage: what the parameters are made of; adapters have their values unless it is "shapes".

    Raises:
        UserError: the checkpoint is unusable, or does not have what is asked for.
    """
    requested = adaptation.requested_plan(checkpoint.family)
    model = create_model(checkpoint, adaptation.dtype, adaptation.quantization, storage)
    plan = fit_plan(requested, model, set(adaptation.parts))
    adapted = {part for part, how in plan.items() if how.mode == "lora"}
    initialization = adapter_initialization(model, adapted if storage == "empty" else set())
    with draws_from(adaptation.seed), initialization:
        apply_plan(model, plan, adaptation.variant, adaptation.dropout)
    return model, plan


@contextmanager
def draws_from(seed: int) -> Iterator[None]:
    """Draw random numbers on the CPU from a seed within this context, and as before after it.

    How many were drawn up to here differs between processes, and between a first run and a second
    one: a check of rows that is not in the cache draws some for its workers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_model(
    checkpoint: Checkpoint,
    adaptation: Adaptation,
    *,
    gradient_checkpointing: bool | Sequence[str],
    attention: Attention,
    compiled: bool,
    kernels: Kernels,
    mesh: DeviceMesh | None,
) -> tuple[PreTrainedModel, Plan]:
    """The model of a run in training mode, and its plan.

    Over a mesh every process keeps its own rows of the weights alone.

    Args:
        checkpoint: the base.
        adaptation: what trains.
        gradient_checkpointing: see `checkpoint_activations`.
        attention: kernel of the language model.
        compiled: whether its layers are compiled.
        kernels: whether layers have faster forwards.
        mesh: the processes to shard over, or None.

    Raises:
        UserError: as `adapted_model`, or there is no such part or kernel.
    """
    model, plan = adapted_model(checkpoint, adaptation, "loaded" if mesh is None else "empty")
    if kernels == "off":
        remove_kernels(model)
    use_attention(model, attention)
    checkpoint_activations(model, gradient_checkpointing)
    if compiled:
        compile_layers(model)
    if mesh is not None:
        shard(model, mesh)
        fill(model, Weights(checkpoint), adaptation.dtype)
    # Created in eval mode, which would switch off the adapters' dropout.
    return model.train(), plan
