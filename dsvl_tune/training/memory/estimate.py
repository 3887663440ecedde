"""What a run's tensors take, part by part, and on how many GPUs.

Sources: parameters and their dtypes are the model's own, with the plan applied (`adapters.apply_plan`: what trains is
float32). A gradient has its parameter's dtype. AdamW keeps two moments of the parameter's size and dtype, and makes a
third tensor of them while it steps (torch.optim.adamw). FSDP2 (torch.distributed.fsdp.fully_shard) divides all of these
by the number of GPUs, and gathers the weights of the layer in use and of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.families.deepseek_vl.parts import LORA_TARGETS, Plan, part_names, part_of
from dsvl_tune.models.finetuning.quantization import NF4_BYTES, PART
from dsvl_tune.models.runtime.activation_checkpointing import Checkpointed
from dsvl_tune.training.memory.fake_step import RowShape, StepBytes, dry_steps

MOMENTS = 2
LAYER = re.compile(r".*\.layers\.\d+\.")
QUANTIZED = re.compile(rf"({LORA_TARGETS[PART]})(\.base_layer)?\.weight")


class PartBytes(NamedTuple):
    """A part's tensors: counts, and bytes of weights, gradients and AdamW's moments."""

    parameters: int
    trained: int
    weights: float
    gradients: float
    moments: float


def part_bytes(model: PreTrainedModel, quantization: str | None) -> dict[str, PartBytes]:
    """Every part that the model has, adapters counted to the part that they adapt."""
    parts = {part: PartBytes(0, 0, 0.0, 0.0, 0.0) for part in part_names(model)}
    for name, parameter in model.named_parameters():
        size = weight_bytes(name, parameter, quantization)
        trained = parameter.numel() if parameter.requires_grad else 0
        grown = (
            parameter.numel(),
            trained,
            size,
            trained * parameter.itemsize,
            MOMENTS * trained * parameter.itemsize,
        )
        part = part_of(name)
        parts[part] = PartBytes(*(old + new for old, new in zip(parts[part], grown, strict=True)))
    return parts


def weight_bytes(name: str, parameter: Tensor, quantization: str | None) -> float:
    """Bytes of a weight as it is kept."""
    if quantization is not None and QUANTIZED.fullmatch(name):
        return parameter.numel() * NF4_BYTES
    return float(parameter.numel() * parameter.itemsize)


def gathered_bytes(model: PreTrainedModel, quantization: str | None) -> float:
    """What a GPU holds of weights that are not its share: the largest unit, one more layer, and what is in no unit.

    The units are those of `models.sharding.shard`: every layer, the embeddings, the head.
    """
    units: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        layer, part = LAYER.match(name), part_of(name)
        unit = layer.group() if layer else part if part in ("embed_tokens", "lm_head") else ""
        units[unit] = units.get(unit, 0.0) + weight_bytes(name, parameter, quantization)
    outside = units.pop("", 0.0)
    return (
        outside
        + max(units.values())
        + max(size for unit, size in units.items() if unit.endswith("."))
    )


def dequantized_bytes(model: PreTrainedModel, quantization: str | None) -> float:
    """The one 4-bit weight that is in use, in the dtype it computes in."""
    if quantization is None:
        return 0.0
    return float(
        max(
            p.numel() * p.itemsize
            for name, p in model.named_parameters()
            if QUANTIZED.fullmatch(name)
        )
    )


def pixel_bytes(config: PretrainedConfig, shape: RowShape) -> int:
    """float32 pixels of a micro-batch's images in both branches."""
    towers = (config.vision_config, getattr(config, "high_res_vision_config", None))
    return sum(
        shape.rows * shape.images * 3 * 4 * tower.image_size**2
        for tower in towers
        if tower is not None
    )


def stored_feature_bytes(config: PretrainedConfig, plan: Plan) -> int | None:
    """Bytes of an image in the feature store in bfloat16: before the aligner where that trains, else after it.

    None where a tower trains, whose features change. SAM's branch ends at 4 times the neck's channels.
    """
    if any(
        plan[part].mode != "frozen"
        for part in plan
        if part.startswith(("siglip", "sam", "downsample"))
    ):
        return None
    sam = getattr(config, "high_res_vision_config", None)
    width = config.text_config.hidden_size
    if plan["aligner"].mode != "frozen":
        width = config.vision_config.hidden_size + (4 * sam.output_channels if sam else 0)
    return 2 * width * (config.vision_config.image_size // config.vision_config.patch_size) ** 2


class Estimate(NamedTuple):
    """Bytes of all that a run keeps or needs for a step; `plain` and `checkpointed` are the two ways of a step."""

    parts: dict[str, PartBytes]
    plain: StepBytes
    checkpointed: StepBytes
    pixels: float
    gathered: float
    dequantized: float

    def step(self, gpus: int, checkpointing: bool) -> float:
        """Activations and all that is alive for a moment, or this GPU's share of AdamW's third tensor if larger."""
        activations = (self.checkpointed if checkpointing else self.plain).peak + self.dequantized
        return max(activations, sum(part.moments for part in self.parts.values()) / MOMENTS / gpus)

    def kept(self, gpus: int) -> list[float]:
        """Weights, gradients and AdamW's moments on each of `gpus` GPUs."""
        return [sum(sizes) / gpus for sizes in list(zip(*self.parts.values(), strict=True))[2:]]

    def total(self, gpus: int, checkpointing: bool) -> float:
        """All of it on each of `gpus` GPUs."""
        gathered = self.gathered if gpus > 1 else 0.0
        return sum(self.kept(gpus)) + gathered + self.pixels + self.step(gpus, checkpointing)


def estimate(
    model: PreTrainedModel,
    shape: RowShape,
    precision: str,
    accumulates: bool,
    quantization: str | None = None,
    checkpointed: bool | Sequence[Checkpointed] = True,
) -> Estimate:
    """What training takes.

    Args:
        model: on the meta device, with the plan applied; afterwards it is of no other use.
        shape: of a micro-batch on one GPU. precision: Lightning's. accumulates: over several micro-batches.
        quantization: nf4 or None. checkpointed: parts of the step with checkpointing, see `models.checkpointing`.
    """
    kept = (
        part_bytes(model, quantization),
        gathered_bytes(model, quantization),
        dequantized_bytes(model, quantization),
    )
    parts, gathered, dequantized = kept
    pixels = float(pixel_bytes(model.config, shape))
    steps = dry_steps(model, shape, precision, accumulates, checkpointed)
    return Estimate(parts, *steps, pixels, gathered, dequantized)
