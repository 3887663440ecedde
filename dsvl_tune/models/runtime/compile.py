"""torch.compile, layer by layer."""

from __future__ import annotations

import os
from shutil import which

import torch
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the layers of the language model, in place; names of tensors stay as they are.

    The layers share their compiled graphs, in which the sizes of a batch are symbols, so a new length compiles nothing.
    What does compile anew: with a mask or without, one row or several, training or validation, and the first layer,
    whose input may need no gradient. Those are more than the 8 kinds after which torch silently leaves a function as
    it is.

    Raises:
        UserError: no C++ compiler is found, which torch's compiler needs on every machine.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(which(name) for name in compilers):
        raise UserError(
            f"model.compile: torch's compiler needs a C++ compiler, and there is no {' or '.join(compilers)} here. "
            "Install one, name it in the environment variable CXX, or leave model.compile out."
        )
    torch._dynamo.config.recompile_limit = 16
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)
