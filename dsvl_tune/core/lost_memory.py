"""Errors that mean that memory ran out, told apart without importing torch."""

from __future__ import annotations

import errno
import re

NO_MEMORY = (
    "DefaultCPUAllocator",
    "Cannot allocate memory",
    "could not create a primitive",  # oneDNN, whose scratch space did not fit
    "could not create a memory",
    "std::bad_alloc",
    "_ALLOC_FAILED",  # of cuBLAS and cuDNN
)
"""What a RuntimeError contains if memory ran out."""


def lost_memory(error: BaseException) -> str | None:
    """Describe an error that means that memory ran out, on a device or in the machine.

    Args:
        error: Any error.

    Returns:
        The beginning of a message, with the size of the failed allocation if the error tells it;
        None for any other error.
    """
    if not _is_out_of_memory(error):
        return None
    found = re.search(r"[Tt]ried to allocate (\d[\d.,]*\s\w+)", str(error))
    return "out of memory" + (f" (tried to allocate {found[1]})" if found else "")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch raises RuntimeError and a subclass of that."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):
        return "failed to map segment" in str(error)
    if not isinstance(error, RuntimeError):
        return False
    of_a_device = type(error).__name__ == "OutOfMemoryError"
    return of_a_device or any(text in str(error) for text in NO_MEMORY)
