"""What a run's tensors take, part by part, and on how many GPUs.

Sources: parameters and their dtypes are the model's own, with the plan applied
(`adapters.apply_plan`: what trains is float32). A gradient has its parameter's dtype. AdamW keeps
two moments of the parameter's size and dtype, and makes a third tensor of them while it steps
(torch.optim.adamw). FSDP2 (torch.distributed.fsdp.fully_shard) divides all of these by the number
of GPUs, and gathers the weights of the layer in use and of the next one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Family, ImageCost, Plan, part_of
from dsvl_tune.families import family_of_model
from dsvl_tune.models.finetuning.plan import part_names
from dsvl_tune.models.finetuning.quantization import NF4_BYTES, quantized_weights
from dsvl_tune.models.finetuning.trained_files import base_name
from dsvl_tune.training.memory.fake_step import RowShape, StepBytes, dry_steps

MOMENTS = 2
LAYER = re.compile(r".*\.layers\.\d+\.")


class PartBytes(NamedTuple):
    """The tensors of a part.

    Attributes:
        parameters: number of parameters.
        trained: number of those that train.
        weights: bytes.
        gradients: bytes.
        moments: bytes of AdamW's moments.
    """

    parameters: int
    trained: int
    weights: float
    gradients: float
    moments: float


def part_bytes(model: PreTrainedModel, quantized: re.Pattern[str] | None) -> dict[str, PartBytes]:
    """Every part that the model has; adapters count to the part that they adapt."""
    parts = family_of_model(model).parts
    found = {part: PartBytes(0, 0, 0.0, 0.0, 0.0) for part in part_names(model)}
    for name, parameter in model.named_parameters():
        trained = parameter.numel() if parameter.requires_grad else 0
        part = part_of(name, parts)
        before = found[part]
        found[part] = PartBytes(
            parameters=before.parameters + parameter.numel(),
            trained=before.trained + trained,
            weights=before.weights + weight_bytes(name, parameter, quantized),
            gradients=before.gradients + trained * parameter.itemsize,
            moments=before.moments + MOMENTS * trained * parameter.itemsize,
        )
    return found


def weight_bytes(name: str, parameter: Tensor, quantized: re.Pattern[str] | None) -> float:
    """Bytes of a weight as it is kept.

    Args:
        name: of the weight.
        parameter: of any shape and dtype, on the meta device.
        quantized: names in the base of weights in 4 bits; None where none are.
    """
    if quantized is not None and quantized.fullmatch(base_name(name)):
        return parameter.numel() * NF4_BYTES
    return float(parameter.numel() * parameter.itemsize)


def gathered_bytes(model: PreTrainedModel, quantized: re.Pattern[str] | None) -> float:
    """Bytes of weights on a GPU that are not its share.

    These are the largest unit, one more layer, and what is in no unit. The units are those of
    `models.runtime.fsdp.shard`: every layer, the embeddings, the head.
    """
    parts = family_of_model(model).parts
    units: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        layer, part = LAYER.match(name), part_of(name, parts)
        unit = layer.group() if layer else part if part in ("embed_tokens", "lm_head") else ""
        units[unit] = units.get(unit, 0.0) + weight_bytes(name, parameter, quantized)
    outside = units.pop("", 0.0)
    layers = [size for unit, size in units.items() if unit.endswith(".")]
    return outside + max(units.values()) + max(layers)


def dequantized_bytes(model: PreTrainedModel, quantized: re.Pattern[str] | None) -> float:
    """Bytes of the one 4-bit weight that is in use, in the dtype that it computes in."""
    if quantized is None:
        return 0.0
    sizes = [
        parameter.numel() * parameter.itemsize
        for name, parameter in model.named_parameters()
        if quantized.fullmatch(base_name(name))
    ]
    return float(max(sizes))


def pixel_bytes(image: ImageCost, shape: RowShape) -> int:
    """Bytes of the float32 vision inputs of a micro-batch's images."""
    values = sum(math.prod(input_shape) for input_shape in image.inputs.values())
    return shape.rows * shape.images * 4 * values


def cached_feature_bytes(family: Family, config: PretrainedConfig, plan: Plan) -> int | None:
    """Bytes of an image in the feature cache in bfloat16; None where nothing can be cached."""
    try:
        names = family.cacheable_features(plan)
    except UserError:
        return None
    shapes = family.feature_shapes(config, set(names))
    return 2 * sum(math.prod(shape) for shape in shapes.values())


class Estimate(NamedTuple):
    """What a run keeps, and what it needs for a step, in bytes.

    Attributes:
        parts: the tensors of each part.
        plain: a step without activation checkpointing.
        checkpointed: a step with it.
        pixels: vision inputs of a micro-batch.
        gathered: weights on a GPU that are not its share.
        dequantized: the 4-bit weight in use.
    """

    parts: dict[str, PartBytes]
    plain: StepBytes
    checkpointed: StepBytes
    pixels: float
    gathered: float
    dequantized: float

    def step(self, gpus: int, checkpointing: bool) -> float:
        """Activations and temporaries, or this GPU's share of AdamW's third tensor if larger."""
        activations = (self.checkpointed if checkpointing else self.plain).peak + self.dequantized
        return max(activations, sum(part.moments for part in self.parts.values()) / MOMENTS / gpus)

    def kept(self, gpus: int) -> list[float]:
        """Weights, gradients and AdamW's moments on each of `gpus` GPUs."""
        parts = self.parts.values()
        totals = [
            sum(part.weights for part in parts),
            sum(part.gradients for part in parts),
            sum(part.moments for part in parts),
        ]
        return [total / gpus for total in totals]

    def total(self, gpus: int, checkpointing: bool) -> float:
        """All of it on each of `gpus` GPUs."""
        gathered = self.gathered if gpus > 1 else 0.0
        return sum(self.kept(gpus)) + gathered + self.pixels + self.step(gpus, checkpointing)


def estimate(
    model: PreTrainedModel,
    shape: RowShape,
    *,
    precision: str,
    accumulates: bool,
    quantization: str | None = None,
    gradient_checkpointing: bool | Sequence[str] = True,
) -> Estimate:
    """What training takes.

    Args:
        model: on the meta device, with the plan applied; it cannot be used afterwards.
        shape: of a micro-batch on one GPU.
        precision: Lightning's.
        accumulates: whether an optimizer step has several micro-batches.
        quantization: nf4 or None.
        gradient_checkpointing: parts of the step with activation checkpointing, see
            `models.runtime.activation_checkpointing`.
    """
    family = family_of_model(model)
    image = family.image_cost(model.config, shape.images)
    quantized = None if quantization is None else quantized_weights(family.parts)
    parts = part_bytes(model, quantized)
    gathered = gathered_bytes(model, quantized)
    dequantized = dequantized_bytes(model, quantized)
    plain, checkpointed = dry_steps(
        model,
        shape,
        precision=precision,
        accumulates=accumulates,
        gradient_checkpointing=gradient_checkpointing,
    )
    pixels = float(pixel_bytes(image, shape))
    return Estimate(parts, plain, checkpointed, pixels, gathered, dequantized)
