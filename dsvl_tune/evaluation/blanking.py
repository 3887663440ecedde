"""Answers without a part of the image: what a vision tower, or the image, contributes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from dsvl_tune.core.errors import unknown_name
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Prompts


def check_blanks(names: Iterable[str], processor: Processor, option: str) -> None:
    """Raise unless the model has everything that is to be blanked.

    Args:
        names: see `Family.blankable_inputs`.
        processor: of the checkpoint.
        option: that names them, for the error.

    Raises:
        UserError: the model has no such vision tower.
    """
    known = processor.family.blankable_inputs(processor)
    for name in names:
        if name not in known:
            raise unknown_name(option, name, known)


def blank_images(prompts: Prompts, processor: Processor, name: str) -> Prompts:
    """The prompts with blank pixels in what one vision tower sees, or in all.

    Args:
        prompts: with normalized vision inputs.
        processor: of the checkpoint.
        name: what is blanked, see `Family.blankable_inputs`.
    """
    blanked = processor.family.blankable_inputs(processor)[name]
    inputs = {
        key: torch.zeros_like(tensor) if key in blanked else tensor
        for key, tensor in prompts.vision_inputs.items()
    }
    return replace(prompts, vision_inputs=inputs)
