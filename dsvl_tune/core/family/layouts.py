"""The two layouts of a checkpoint's tensors, and how they correspond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["transformers", "original"]


class TensorGroup(Protocol):
    """Tensors of the original layout and the tensors of transformers' that hold the same values.

    Most groups are one tensor in each layout. A fused projection is one tensor there and three
    here; fused experts would be many there and one here.

    Attributes:
        original: names in the original layout.
        transformers: names in transformers' layout.
    """

    @property
    def original(self) -> tuple[str, ...]: ...
    @property
    def transformers(self) -> tuple[str, ...]: ...

    def to_transformers(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors of transformers' layout from the original's, as views where possible.

        Shapes are the files'; the dtype, any floating one, is kept.
        """

    def to_original(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors of the original layout: the inverse of `to_transformers`, dtype kept."""
