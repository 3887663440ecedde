"""Errors that mean that memory ran out, as torch, numpy and the system raise them."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dsvl_tune.core.lost_memory import lost_memory

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 39.39 GiB of "
    "which 15.44 MiB is free."
)


def raised(by: Callable[[], object]) -> Exception:
    """The error that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one is what is asked
        by()
    return caught.value


def test_an_allocation_of_torch_that_fails() -> None:
    error = raised(lambda: torch.empty(1 << 46, dtype=torch.uint8))
    assert lost_memory(error) == "out of memory (tried to allocate 70368744177664 bytes)"


def test_an_allocation_of_numpy_that_fails() -> None:
    assert str(lost_memory(raised(lambda: np.empty(1 << 46)))).startswith("out of memory")


def test_a_device_without_memory() -> None:
    found = lost_memory(torch.OutOfMemoryError(CUDA))
    assert found == "out of memory (tried to allocate 20.00 MiB)"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_other_errors_are_told_apart(error: Exception, is_memory: bool) -> None:
    assert (lost_memory(error) is not None) is is_memory
