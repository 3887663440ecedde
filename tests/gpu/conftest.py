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


def lacking() -> str:
    """What this machine lacks to run the tests; "" if nothing."""
    if ON_CPU or (torch.cuda.is_available() and torch.cuda.is_bf16_supported()):
        return ""
    found = f"torch {torch.__version__}, {torch.cuda.device_count()} CUDA devices"
    return f"a CUDA device with bfloat16 is needed, and torch built for CUDA; here: {found}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a card one test says so for all."""
    ours = [item for item in items if item.path.parent == Path(__file__).parent]
    reason = lacking()
    if not ours or not reason:
        return
    ours[0].add_marker(pytest.mark.skip(reason=f"none of {len(ours)} GPU tests was run: {reason}"))
    config.hook.pytest_deselected(items=ours[1:])
    items[:] = [item for item in items if item not in ours[1:]]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that the tests are about."""
    return torch.device("cpu" if ON_CPU else "cuda")


@pytest.fixture(scope="session")
def card(device: torch.device) -> torch.device:
    """The device, where nothing stands in for it."""
    if device.type != "cuda":
        pytest.skip("this test has no counterpart on the CPU")
    return device
