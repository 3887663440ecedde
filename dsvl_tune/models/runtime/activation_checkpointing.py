"""Gradient checkpointing, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError

Checkpointed = Literal["siglip", "sam", "language_model"]
MODULES: dict[Checkpointed, str] = {
    "siglip": "vision_model",
    "sam": "high_res_vision_model",
    "language_model": "language_model",
}


def checkpoint_activations(model: PreTrainedModel, parts: bool | Sequence[Checkpointed]) -> None:
    """Keep only each layer's input, and compute the layer again in the backward pass.

    Each part is asked by itself. Asked as a whole, transformers (5.20 to 5.23) makes the inputs of all parts require a
    gradient, which only reentrant checkpointing needs: frozen towers would keep their activations, be computed twice
    and be differentiated for nothing. A part that nothing trains in or before keeps no activations with or without.

    Args:
        model: changed in place.
        parts: their names, or true for all that the model has.

    Raises:
        UserError: the model has no such part.
    """
    present = [part for part, module in MODULES.items() if hasattr(model.model, module)]
    chosen = (present if parts else []) if isinstance(parts, bool) else parts
    for part in chosen:
        if part not in present:
            raise UserError(
                f"model.gradient_checkpointing: {part!r} is a part of the hybrid family; this checkpoint has "
                f"{', '.join(present)}."
            )
        module = getattr(model.model, MODULES[part])
        # 5.23 renamed the method and warns of the old name, the only one that 5.20 has.
        enable = (
            getattr(module, "activation_checkpointing_enable", None)
            or module.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        module.disable_input_require_grads()
