"""torch.compile, layer by layer."""

from __future__ import annotations

import os
from shutil import which

import torch
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the layers of the language model, in place; tensor names do not change.

    The layers share their compiled graphs. Batch sizes are symbolic in these, so a new length
    compiles nothing. Compiled separately are: with a mask or without, one row or several, training
    or validation, and the first layer, whose input may need no gradient. Those are more than the 8
    variants after which torch silently stops compiling a function.

    Args:
        model: the complete model.

    Raises:
        UserError: no C++ compiler is installed, which torch's compiler needs on every machine.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(which(name) for name in compilers):
        raise UserError(
            f"model.compile: torch needs a C++ compiler, but {' or '.join(compilers)} is not "
            "installed. Install one, name it in the environment variable CXX, or set "
            "model.compile: false."
        )
    torch._dynamo.config.recompile_limit = 16
    separate_caches()
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)


def separate_caches() -> None:
    """Make torch's compiler cache depend on the vector width of the processor.

    Its keys leave that out. With a cache folder that machines share, or that came with an image,
    code for AVX-512 would run on a processor with AVX2 only, which gives wrong numbers and no error
    (seen: gradients of 1e20), or does not compile at all.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa  # takes seconds to import

    width, tag = str(pick_vec_isa()), torch.compiler.config.cache_key_tag
    if width not in tag:
        torch.compiler.config.cache_key_tag = f"{tag}{width}"
