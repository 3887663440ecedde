"""From a checkpoint to transformers' model of it: with its weights, or without."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.quantization import Quantization, check_widths, empty_layers
from dsvl_tune.models.runtime.fsdp import fill

Storage = Literal["loaded", "empty", "shapes"]
"""What the parameters of a model are made of.

- loaded: the checkpoint's weights, each read and checked, on the CPU.
- empty: nothing, on the meta device; buffers have their values. For a model that is sharded first
  and then filled by `runtime.fsdp.fill`.
- shapes: nothing, on the meta device, buffers neither. For an estimate.
"""


def create_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    storage: Storage = "loaded",
) -> PreTrainedModel:
    """The complete model of a checkpoint, in eval mode, every parameter with a gradient.

    Complete but for carried parts, which nothing here uses.

    It generates greedily up to the tokenizer's end token, and has the faster kernels.

    Args:
        checkpoint: in either layout.
        dtype: of what is not quantized.
        quantization: of the linear layers and experts of the language model, each as its weights
            are read.
        storage: what the parameters are made of.

    Raises:
        UserError: a weight is missing, left over, of another shape or not finite, or a file differs
            from what SHA256SUMS lists.
    """
    if storage == "loaded" and quantization is None:
        model = _load(checkpoint, dtype)
    else:
        model = _create_on_meta(checkpoint, dtype)
        if storage != "shapes":
            _compute_buffers(model)
        if quantization is not None:
            shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
            check_widths(shapes, checkpoint.family.parts, checkpoint.folder)
            empty_layers(model, dtype)
        if storage == "loaded":
            fill(model, Weights(checkpoint), dtype)
    model.name_or_path = str(checkpoint.folder)
    if checkpoint.complete:
        model.generation_config = GenerationConfig(**checkpoint.special_ids, do_sample=False)
    install_kernels(model)
    return model.eval()


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """The model with every weight read from the files."""
    family, config = checkpoint.family, copy.deepcopy(checkpoint.config)
    weights = Weights(checkpoint)
    kept = float32_modules(family.model_class(config))
    state = {
        name: weights.read(name).to(torch.float32 if kept & set(name.split(".")) else dtype)
        for name in weights.loaded_names
    }
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # whatever it would warn of was raised above
    try:
        model, report = family.loaded_class(config).from_pretrained(
            None,
            state_dict=state,
            config=config,
            dtype=dtype,
            output_loading_info=True,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    for fault in ("missing", "unexpected", "mismatched"):
        assert not report[f"{fault}_keys"], report
    return model


def float32_modules(model_class: type[PreTrainedModel]) -> set[str]:
    """Components of the names of tensors that transformers keeps in float32 whatever the dtype."""
    return set(getattr(model_class, "_keep_in_fp32_modules_strict", None) or ())


def _create_on_meta(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """The model without any values, its parameters in `dtype`."""
    config = copy.deepcopy(checkpoint.config)
    with torch.device("meta"):
        model: PreTrainedModel = checkpoint.family.loaded_class(config)(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _compute_buffers(model: PreTrainedModel) -> None:
    """Give buffers that no checkpoint holds (positions, rotary frequencies) their values.

    Those that it holds stay on the meta device, as the parameters do.

    By transformers' own rules: left on the meta device, or merely allocated, they would hold
    anything.
    """
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
            module._is_hf_initialized = False  # asks for the rules to be applied
    model.initialize_weights()
    held = model.state_dict()
    assert not any(buffer.is_meta for name, buffer in model.named_buffers() if name not in held)
