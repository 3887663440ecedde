"""What is computed where a tensor is on no CPU: traced on the meta device, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.training.memory.fake_step import (
    RowShape,
    decode,
    encode,
    make_vision_inputs,
    supervise,
)

SHAPE = RowShape(rows=2, tokens=60, images=1, supervised=8)


class Operations(TorchDispatchMode):
    """Keeps the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_off_the_cpu(hybrid_checkpoint: Path, dtype: torch.dtype) -> None:
    """Kernels are chosen by the device. `tests/traced` has a pretended GPU, with a compiler."""
    model = create_model(open_checkpoint(hybrid_checkpoint), dtype, storage="shapes").train()
    with torch.device("meta"), Operations() as operations:
        model.to("meta")
        pixels = make_vision_inputs(model, SHAPE)
        features = encode(model, {name: x.to(dtype) for name, x in pixels.items()})
        loss = supervise(model, SHAPE, decode(model, SHAPE, features))
        loss.backward()
    assert loss.device.type == "meta" and loss.dtype == torch.float32
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert not without
    assert not [name for name in operations.names if "mkldnn" in name or "onednn" in name]
    # SAM's position terms are in widened operands, made of one-hot rows and columns.
    assert {"aten::eye", "aten::constant_pad_nd"} <= operations.names
