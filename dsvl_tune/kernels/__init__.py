"""Faster forwards for modules of transformers and peft."""

from dsvl_tune.core.quick_imports import bitsandbytes_unless_imported

with bitsandbytes_unless_imported():
    import peft  # noqa: F401
