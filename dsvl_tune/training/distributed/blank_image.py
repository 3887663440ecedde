"""An image that no slot shows: it makes the vision side run without changing any result."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Batch, Prompts

BatchT = TypeVar("BatchT", bound=Batch | Prompts)


def add_blank_image(batch: BatchT, processor: Processor) -> BatchT:
    """The batch itself if it has vision inputs, otherwise with those of one blank image.

    Every tensor that images are encoded with then gets a gradient, of zeros.
    """
    if batch.vision_inputs:
        return batch
    blank = processor.family.blank_vision_inputs(processor)
    device = batch.input_ids.device
    return replace(batch, vision_inputs={name: tensor.to(device) for name, tensor in blank.items()})
