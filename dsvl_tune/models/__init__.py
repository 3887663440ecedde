"""Weights and modules. Nothing in this package knows a row of data."""

import logging

from dsvl_tune.core.quick_imports import bitsandbytes_unless_imported

with bitsandbytes_unless_imported():
    import peft  # noqa: F401

# When it is imported, it warns about a missing inference kernel that would not be used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
