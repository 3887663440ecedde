"""Activation checkpointing, part by part."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.families import family_of_model


def checkpoint_activations(model: PreTrainedModel, chosen: bool | Sequence[str]) -> None:
    """Keep only each layer's input, and compute the layer again in the backward pass.

    Each part is switched by itself. Switched as a whole, transformers (5.20 to 5.23) makes the
    inputs of all parts require a gradient, which only reentrant checkpointing needs: frozen towers
    would keep their activations, be computed twice and be differentiated for nothing. A part that
    neither trains nor comes after one that does keeps no activations anyway.

    Args:
        model: changed in place.
        chosen: names of parts, or true for all that the model has.

    Raises:
        UserError: there is no such part, or the model lacks it.
    """
    parts = family_of_model(model).parts
    modules = {
        name: part.checkpointed_module for name, part in parts.items() if part.checkpointed_module
    }
    present = [name for name, module in modules.items() if hasattr(model.model, module)]
    if isinstance(chosen, bool):
        chosen = present if chosen else []
    for name in chosen:
        if name not in modules:
            raise UserError(f"model.gradient_checkpointing: {unknown_name('part', name, modules)}")
        if name not in present:
            raise UserError(
                f"model.gradient_checkpointing: this checkpoint has no {name}; it has "
                f"{', '.join(present)}."
            )
        module = getattr(model.model, modules[name])
        # 5.23 renamed the method and warns of the old name, the only one that 5.20 has.
        enable = (
            getattr(module, "activation_checkpointing_enable", None)
            or module.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        module.disable_input_require_grads()
