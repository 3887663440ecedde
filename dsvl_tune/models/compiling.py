"""torch.compile, layer by layer."""

from __future__ import annotations

import os
from shutil import which

from transformers import PreTrainedModel

from dsvl_tune.schema import UserError


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the layers of the language model, in place; names of tensors stay as they are.

    The layers are alike and share one compiled graph; sizes of batches are symbols in it, so a new length compiles
    nothing.

    Raises:
        UserError: no C++ compiler is found, which torch's compiler needs on every machine.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(which(name) for name in compilers):
        raise UserError(
            f"model.compile: torch's compiler needs a C++ compiler, and there is no {' or '.join(compilers)} here. "
            "Install one, name it in the environment variable CXX, or leave model.compile out."
        )
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)
