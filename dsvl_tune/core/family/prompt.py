"""The pieces of a prompt, as a family renders them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsvl_tune.core.types import ImageRef

RenderMode = Literal["training", "generation"]


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt that is tokenized as a whole.

    Attributes:
        content: text, special tokens included, or an image.
        weight: loss weight of each of its tokens; 0 if the segment is not supervised.
        turn: number of the turn that it belongs to, from 0. The segments of the first k turns are
            the rendering of the conversation that ends there.
    """

    content: str | ImageRef
    weight: float = 0.0
    turn: int = 0

    @property
    def supervised(self) -> bool:
        """Whether its tokens are trained on."""
        return self.weight > 0
