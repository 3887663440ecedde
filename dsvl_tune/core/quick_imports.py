"""Imports that take less time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BITSANDBYTES = "bitsandbytes"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Never look for garbage in what is made here, until `gc.unfreeze`.

    The objects of imported libraries, hundreds of thousands, stay for good. Python would search
    them again and again, which takes a fifth of the time to the first step of a short run.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def bitsandbytes_unless_imported() -> Iterator[None]:
    """Let peft find bitsandbytes here only if it has been imported before.

    peft imports it wherever it is installed, which takes a second. Only a base in 4 bits needs it,
    and transformers imports it when it loads one.
    """
    if BITSANDBYTES in sys.modules:
        yield
        return
    sys.modules[BITSANDBYTES] = None  # type: ignore[assignment]  # so its import fails
    try:
        yield
    finally:
        del sys.modules[BITSANDBYTES]
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available
        from transformers.utils import is_bitsandbytes_available

        for remembers in (is_bnb_available, is_bnb_4bit_available, is_bitsandbytes_available):
            remembers.cache_clear()
