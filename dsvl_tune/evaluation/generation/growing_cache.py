"""A key-value cache that grows without copying itself at every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 128
"""Tokens that memory is set aside for, beyond those that are held."""


class GrowingLayer(DynamicLayer):
    """Keys and values of a layer, in memory that has room for the tokens to come.

    transformers' own layer concatenates: each generated token copies all keys and values.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._memory: dict[str, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add tokens.

        Args:
            key_states: [B, H, T, D].
            value_states: [B, H, T, D'].
            args: of other caches.
            kwargs: of other caches.

        Returns:
            All keys and values that are held.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep some rows, or repeat them: [B'] int64."""
        super().reorder_cache(beam_idx)
        self._memory.clear()

    def _append(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        """What is held and, after it, what is new: a view of the memory of that name."""
        length = held.shape[-2] if held.numel() else 0
        total = length + new.shape[-2]
        memory = self._memory.get(name)
        if memory is None or memory.shape[-2] < total:
            memory = torch.empty(
                (*new.shape[:-2], total + ROOM, new.shape[-1]), dtype=new.dtype, device=new.device
            )
            if length:
                memory[..., :length, :] = held
            self._memory[name] = memory
        memory[..., length:total, :] = new
        return memory[..., :total, :]


def growing_cache() -> Cache:
    """An empty cache of layers with full attention."""
    return Cache(layer_class_to_replicate=GrowingLayer)
