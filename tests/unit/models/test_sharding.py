"""A model built without its weights is the loaded one in all but them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.storage.tensor_files import stream_tensors
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import Variant, apply_plan
from dsvl_tune.models.finetuning.plan import make_plan
from dsvl_tune.models.runtime.fsdp import adapter_initialization

PLAN = make_plan(
    DEEPSEEK_VL, "lora", {"aligner": PartPlan("lora", rank=4), "siglip": PartPlan("full")}
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_an_empty_model_has_everything_but_the_weights(
    hybrid_checkpoint: Path, dtype: torch.dtype, variant: Variant
) -> None:
    """Adapters as drawn, and the buffers that no file holds: unset, an index leaves its range."""
    torch.manual_seed(3)
    loaded = create_model(open_checkpoint(hybrid_checkpoint), dtype)
    apply_plan(loaded, PLAN, variant)
    torch.manual_seed(3)
    empty = create_model(open_checkpoint(hybrid_checkpoint), dtype, storage="empty")
    with adapter_initialization(empty, {"language_model", "aligner"}):
        apply_plan(empty, PLAN, variant)
    ones, others = dict(loaded.named_parameters()), dict(empty.named_parameters())
    assert list(ones) == list(others)
    for name, one in ones.items():
        assert (one.dtype, one.shape, one.requires_grad) == (
            others[name].dtype,
            others[name].shape,
            others[name].requires_grad,
        )
        if "lora_A" in name or "lora_B" in name:
            assert torch.equal(one, others[name]), name
        elif "lora_" not in name:
            assert others[name].is_meta, name
    buffers = dict(empty.named_buffers())
    assert buffers and all(
        torch.equal(buffer, buffers[name]) for name, buffer in loaded.named_buffers()
    )


@pytest.mark.parametrize("rows", [slice(0, 3), slice(5, 9), slice(40, 40)])
def test_rows_of_a_tensor_are_those_rows(checkpoint: Path, rows: slice) -> None:
    model = create_model(open_checkpoint(checkpoint))
    weights = Weights(open_checkpoint(checkpoint))
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights.read(name, rows), tensor[rows]), name


def test_a_streamed_file_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.randn(1)}
    stream_tensors(tmp_path / "s.safetensors", tensors, tensors.__getitem__)
    read = load_file(tmp_path / "s.safetensors")
    assert set(read) == set(tensors) and all(
        torch.equal(read[name], tensor) for name, tensor in tensors.items()
    )
