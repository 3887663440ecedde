"""Logits that are not finite: found where answers are generated, with the first part to blame.

Weights can be finite and still too large for the precision that is computed in: activations
overflow, and the token of the largest logit is then an arbitrary one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError


@contextmanager
def finite_logits(model: PreTrainedModel, forward: Callable[[], object]) -> Iterator[None]:
    """Raise as soon as the model computes a next token's logits that are not finite.

    Args:
        model: that generates in the block.
        forward: computes the same prompts once more, to find the part to blame.

    Raises:
        UserError: The message names the part.
    """

    def check(module: nn.Module, args: Any, outputs: Any) -> None:
        if not bool(outputs.logits.isfinite().all()):
            handle.remove()
            raise nonfinite_error("logits are", model, forward)

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def nonfinite_error(what: str, model: nn.Module, forward: Callable[[], object]) -> UserError:
    """Make the error for numbers of a model that are not finite.

    Args:
        what: What is not finite, with its verb.
        model: That computed it.
        forward: Computes it once more.
    """
    return UserError(
        f"{what} not finite{blamed_part(model, forward)}. Compute in a wider precision (--dtype, "
        "model.dtype or trainer.precision float32), or check the weights: they are damaged, or too "
        "large after training."
    )


def blamed_part(model: nn.Module, forward: Callable[[], object]) -> str:
    """Say which module of a model is the first whose output is not finite.

    Args:
        model: Any module.
        forward: Runs the model.

    Returns:
        Text to follow a statement, with the module's name and dtype; "" if all outputs are finite.
    """
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            for tensor in _tensors_in(outputs):
                if not found and not bool(tensor.isfinite().all()):
                    found.append(f" (first in {name}, {str(tensor.dtype).removeprefix('torch.')})")

        return hook

    handles = [
        module.register_forward_hook(look(name)) for name, module in model.named_modules() if name
    ]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _tensors_in(outputs: Any) -> Iterator[Tensor]:
    """Every floating tensor of a module's output, of any shape and dtype."""
    if isinstance(outputs, Tensor) and outputs.is_floating_point():
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors_in(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from _tensors_in(value)
