"""Other people's software that exports were loaded in by this project's tests.

Model cards and the READMEs of adapters name these releases; `make interop` runs them.
"""

from __future__ import annotations

TRANSFORMERS = ("5.23.0", "4.57.6")
"""Releases of transformers that load a merged checkpoint with equal logits."""

PEFT = "0.21.2"
"""Release of peft that loads an adapter, on the first of `TRANSFORMERS`."""
