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
    separate_caches()
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)


def separate_caches() -> None:
    """Let torch's compiler find in its cache only what it made for this processor's vector width.

    Its keys leave that out. With a cache folder that machines share, or one that came with an image,
    code for AVX-512 is compiled on a processor with AVX2 only, which gives wrong numbers and no
    error (seen: gradients of 1e20), or does not compile at all.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa  # takes seconds to import

    width, tag = str(pick_vec_isa()), torch.compiler.config.cache_key_tag
    if width not in tag:
        torch.compiler.config.cache_key_tag = f"{tag}{width}"
