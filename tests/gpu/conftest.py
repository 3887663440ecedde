"""Tests for one CUDA device with bfloat16: `make gpu`. Without one they are skipped.

`GPU_TESTS_ON=cpu` runs on the CPU whatever it can run, to try the tests themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for folder in ("unit/kernels", "parity", "."):  # what the tests of the CPU have is used again
    sys.path.append(str(Path(__file__).parents[1] / folder))

ON_CPU = os.environ.get("GPU_TESTS_ON") == "cpu"


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Float32 in float32: without TF32, which has ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that the tests are about."""
    if ON_CPU:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: `make gpu` needs one with bfloat16")
    if not torch.cuda.is_bf16_supported():
        pytest.skip("this CUDA device has no bfloat16")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def card(device: torch.device) -> torch.device:
    """The device, where nothing stands in for it."""
    if device.type != "cuda":
        pytest.skip("this test has no counterpart on the CPU")
    return device
