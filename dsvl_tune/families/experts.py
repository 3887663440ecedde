"""What families with a mixture of experts share: tokens times the matrices of their experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.integrations.moe import _grouped_mm


class LowRank(NamedTuple):
    """An adapter of stacked matrices [E, N, K]: it adds scaling * b[e] a[e] to that of expert e.

    Attributes:
        a: [E, rank, K], any floating dtype.
        b: [E, N, rank], likewise.
        scaling: of the product.
    """

    a: Tensor
    b: Tensor
    scaling: float


class StackedExperts(nn.Module):
    """Experts whose matrices are stacked: a parameter [E, N, K] for each projection.

    A subclass has the parameters and a `forward(hidden, chosen, weights, adapters)`, which computes
    every product by `product`. So adapters and packed matrices fit all such classes.
    """

    def compute_dtype(self, name: str) -> torch.dtype:
        """The dtype of products with a projection where autocast does not give one."""
        parameter: Tensor = getattr(self, name)
        return parameter.dtype

    def stack_shape(self, name: str) -> tuple[int, ...]:
        """The shape [E, N, K] of a projection."""
        parameter: Tensor = getattr(self, name)
        return tuple(parameter.shape)

    def product(
        self, name: str, rows: Tensor, ends: Tensor, adapters: Mapping[str, LowRank]
    ) -> Tensor:
        """Rows of each expert times its matrix, adapter included.

        The adapter is never added to the matrices, which would copy all experts of a layer.

        Args:
            name: of the projection.
            rows: [R, K], sorted by expert, in the dtype to compute in.
            ends: [E] int32, where each expert's rows end.
            adapters: by projection; may lack this one.

        Returns:
            [R, N] in the dtype of `rows`.
        """
        result = self.matmul(name, rows, ends)
        if name not in adapters:
            return result
        a, b, scaling = adapters[name]
        inner = grouped_matmul(rows, a.to(rows.dtype).mT, ends)
        b = b.mT.to(rows.dtype).contiguous()
        return result.add(grouped_matmul(inner, b, ends), alpha=scaling)

    def matmul(self, name: str, rows: Tensor, ends: Tensor) -> Tensor:
        """Rows of each expert times its matrix alone; arguments and result of `product`."""
        parameter: Tensor = getattr(self, name)
        return grouped_matmul(rows, parameter.to(rows.dtype).mT, ends)


def grouped_matmul(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows of each group times the group's matrix.

    Args:
        rows: [R, K], sorted by group.
        weights: [G, K, N].
        ends: [G] int32, where each group's rows end.

    Returns:
        [R, N].
    """
    if rows.dtype == torch.float64:  # not in torch's grouped matmul: group by group
        product: Tensor = torch.ops.transformers.grouped_mm_fallback(rows, weights, ends)
    else:
        product = _grouped_mm(rows, weights, ends)
    return product
