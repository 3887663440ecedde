"""A trained model without training: every trainable tensor of a plan moved at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.family import PartPlan
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.float64 import in_float64

# Of the logits' spread, in float64: the same weights in another order of sums (measured 4e-15), and
# merged weights rounded once to float32 (measured 1e-7 to 2.1e-6).
SAME = 1e-11
ROUNDED = 1e-5


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a share of the spread."""
    return float((found - wanted).abs().max() / wanted.std())


def train_randomly(
    folder: Path,
    parts: Mapping[str, PartPlan],
    variant: Any = "lora",
    *,
    preset: str = "none",
    noise: float = 0.05,
) -> PreTrainedModel:
    """The model of a checkpoint, in eval mode, whose trained tensors all moved by this noise."""
    torch.manual_seed(3)
    base = open_checkpoint(folder)
    model = create_model(base)
    plan = fit_plan(make_plan(base.family, preset, parts), model, set())
    apply_plan(model, plan, variant)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def logits(model: Any, text_only: bool = False) -> Tensor:
    """Float64 logits of one row, which do not depend on a processor's order of sums.

    Args:
        model: transformers' class or a `PeftModel` around it, in eval mode afterwards.
        text_only: whether the row has no image.
    """
    torch.manual_seed(0)
    image_id = model.config.image_token_id
    text = torch.randint(10, 400, (1, 12))
    pixels = {}
    if not text_only:
        text = torch.cat([torch.full((1, 16), image_id), text], dim=1)
        pixels["pixel_values"] = torch.randn(1, 3, 32, 32).double()
    if not text_only and model.config.model_type == "deepseek_vl_hybrid":
        pixels["high_res_pixel_values"] = torch.randn(1, 3, 64, 64).double()
    with torch.no_grad(), in_float64(model.eval()):
        found: Tensor = model(input_ids=text, attention_mask=torch.ones_like(text), **pixels).logits
    return found
