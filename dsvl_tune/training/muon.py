"""Muon for matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from dsvl_tune.training.parameter_groups import GROUP_SEPARATOR

NOT_HIDDEN = ("embed_tokens", "lm_head")
"""Model parts whose matrices AdamW trains: Muon is for those between hidden layers."""


class MuonAdamW(Optimizer):
    """torch's Muon for matrices of hidden layers, adapters included, and AdamW for the rest.

    Muon (https://kellerjordan.github.io/posts/muon/) takes tensors with two dimensions alone.
    Its steps are scaled to those of AdamW (arXiv 2502.16982, equation 4), so that the learning
    rates of AdamW and its weight decay apply to both.

    Args:
        params: groups of named parameters with "name", "lr" and "weight_decay".
        lr: learning rate of groups that bring none.
        weight_decay: of groups that bring none.
        momentum: Muon's, 0..1.
        nesterov: whether Muon looks ahead.
        ns_steps: iterations of Newton and Schulz in a step of Muon.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        groups = [piece for group in params for piece in _split(group)]
        matrices = [group for group in groups if group["uses_muon"]]
        others = [group for group in groups if not group["uses_muon"]]
        self._inner: dict[bool, Optimizer] = {}
        if matrices:
            self._inner[True] = Muon(
                matrices,
                lr,
                weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn="match_rms_adamw",
            )
        if others:
            self._inner[False] = AdamW(others, lr, betas=betas, eps=eps, weight_decay=weight_decay)
        # The groups of the two, with the settings of each filled in.
        super().__init__([group for one in self._inner.values() for group in one.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with both.

        Args:
            closure: computes the loss and its gradients again.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for uses_muon, inner in self._inner.items():
            # Loading a state replaces both.
            inner.param_groups = [one for one in self.param_groups if one["uses_muon"] is uses_muon]
            inner.state = self.state
            inner.step()
        return loss


def _split(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The tensors of a group that Muon takes, and the others, as groups of their own."""
    part = group["name"].partition(GROUP_SEPARATOR)[0]
    by_muon: dict[bool, list[tuple[str, Tensor]]] = {True: [], False: []}
    for name, tensor in group["params"]:
        by_muon[tensor.ndim == 2 and part not in NOT_HIDDEN].append((name, tensor))
    pieces = [
        {**group, "params": tensors, "uses_muon": uses_muon}
        for uses_muon, tensors in by_muon.items()
        if tensors
    ]
    if len(pieces) == 2:
        pieces[1]["name"] = f"{group['name']}{GROUP_SEPARATOR}others"
    return pieces
