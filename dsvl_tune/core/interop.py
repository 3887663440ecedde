"""Other people's software that the tests load exports in: releases, for model cards and READMEs.

`make interop` runs them; docs/interop.md has what came out.
"""

from __future__ import annotations

TRANSFORMERS = ("5.23.0", "4.57.6")
"""Releases of transformers that load a merged checkpoint with equal logits."""

PEFT = "0.21.2"
"""Release of peft that loads an adapter, on either of `TRANSFORMERS`."""

ORIGINAL_TRANSFORMERS = "4.38.2"
"""Release of transformers that the original code of DeepSeek-VL was run with."""

TRL = "1.16.0"
"""Release of TRL that goes on training a merged checkpoint or an adapter."""

LM_EVAL = "0.4.13"
"""Release of lm-evaluation-harness that evaluates a merged checkpoint."""

VLLM = "0.32.0"
"""Release of vLLM, CPU build, that serves a merged DeepSeek-VL checkpoint with our plugin, and
DeepSeek-VL2 by itself."""
