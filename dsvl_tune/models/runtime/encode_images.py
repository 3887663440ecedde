"""The visual tokens that fill the image slots of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dsvl_tune.core.types import VisionBatch
from dsvl_tune.families import family_of_model


def encode_images(
    model: PreTrainedModel, batch: VisionBatch
) -> dict[str, BaseModelOutputWithPooling] | None:
    """Encode each distinct image of a batch once, from vision inputs or from cached features.

    Args:
        model: a complete model.
        batch: with normalized vision inputs, or with features, or with neither.

    Returns:
        What transformers' classes take as `mm_encoder_outputs`: the visual tokens of all slots,
        [M, V, D], or [*, D] where images differ in their number of tokens. None without images.
    """
    family = family_of_model(model)
    if batch.features:
        tokens = family.finish_images(model, batch.features)
    elif batch.vision_inputs:
        tokens = family.encode_images(model, batch.vision_inputs)
    else:
        return None
    slots = fill_slots(tokens, batch.image_index)
    return {"image": BaseModelOutputWithPooling(pooler_output=slots)}


def fill_slots(tokens: Tensor | Sequence[Tensor], image_index: Tensor) -> Tensor:
    """The visual tokens of each slot.

    Args:
        tokens: of each distinct image: [I, V, D], or one [V_i, D] for each.
        image_index: [M] int64, which image fills the m-th slot; may be empty.

    Returns:
        [M, V, D], or the slots' tokens one after the other, [*, D].
    """
    if isinstance(tokens, Tensor):
        return tokens[image_index]
    slots = [tokens[image] for image in image_index.tolist()]
    return torch.cat(slots) if slots else tokens[0][:0]
