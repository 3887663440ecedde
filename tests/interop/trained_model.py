"""What the tests of this folder are given: a trained model in every form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

Record = Callable[[str, str, str], None]
"""Adds a row to the table: software with version, what was run, what came out."""


class Trained(NamedTuple):
    """A trained model in every form that it is exported in, and its own answers.

    Attributes:
        kind: hybrid or siglip.
        transformers: merged, in transformers' layout, float32.
        original: merged, in the original layout, float32.
        base: in transformers' layout.
        adapter: folder that was trained on `base`.
        inputs: safetensors file with the arguments of the model for one question on one image;
            next to it a JSON file with the question, the image and the number of tokens.
        logits: [1, S, vocabulary] float32, of base and adapter.
        greedy_ids: [1, new].
    """

    kind: str
    transformers: Path
    original: Path
    base: Path
    adapter: Path
    inputs: Path
    logits: Tensor
    greedy_ids: Tensor
