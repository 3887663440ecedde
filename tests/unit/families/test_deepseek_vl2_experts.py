"""Grouped experts, against transformers' loop over experts one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts

from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2TextConfig
from dsvl_tune.families.deepseek_vl2.modeling.experts import Experts

SHAPE = {"hidden_size": 32, "moe_intermediate_size": 16, "n_routed_experts": 8}


def both(dtype: torch.dtype) -> tuple[Experts, DeepseekV3Experts]:
    config = DeepseekV3Config(**SHAPE)
    config._experts_implementation = "eager"
    theirs = DeepseekV3Experts(config)
    torch.manual_seed(3)
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.2)
    ours = Experts(DeepseekVL2TextConfig(**SHAPE, num_experts_per_tok=3))
    ours.load_state_dict(theirs.state_dict())
    return ours.to(dtype), theirs.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 3e-2)],
)
def test_values_and_gradients_are_those_of_the_loop(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = both(dtype)
    torch.manual_seed(5)
    chosen = torch.stack([torch.randperm(7)[:3] for _ in range(20)])  # no token chooses the eighth
    found = []
    for module in (ours, theirs):
        torch.manual_seed(6)
        hidden = torch.randn(20, 32).to(dtype).requires_grad_()
        weights = torch.rand(20, 3).to(torch.promote_types(dtype, torch.float32)).requires_grad_()
        output = module(hidden, chosen, weights)
        (output.double() ** 2).sum().backward()
        parameters = [module.gate_up_proj, module.down_proj]
        found.append([output, *(tensor.grad for tensor in (hidden, weights, *parameters))])
    for one, two in zip(*found, strict=True):
        assert one is not None and two is not None and one.dtype == two.dtype
        assert (one - two).abs().max() <= tolerance * two.abs().max()
    assert not found[0][3][7].any()


def test_only_chosen_experts_are_computed() -> None:
    """Weights that are not numbers, of experts that no token chose, do not matter."""
    ours, _ = both(torch.float32)
    with torch.no_grad():
        ours.gate_up_proj[4:] = torch.nan
    hidden, weights = torch.randn(9, 32), torch.rand(9, 2)
    chosen = torch.tensor([[0, 3]] * 5 + [[2, 1]] * 4)
    assert ours(hidden, chosen, weights).isfinite().all()


def test_trained_experts_compute_in_the_dtype_of_autocast() -> None:
    ours, _ = both(torch.float32)
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = ours(torch.randn(9, 32), torch.zeros(9, 2, dtype=torch.int64), torch.rand(9, 2))
    assert output.dtype == torch.float32 and torch.bfloat16 in kept
    output.sum().backward()
    assert ours.gate_up_proj.grad is not None and ours.gate_up_proj.grad.dtype == torch.float32


class UsesOf(TorchDispatchMode):
    """Which operators take some tensors, or views of them, with the rows of the first operand."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        if any(tensor.untyped_storage().data_ptr() in self.storages for tensor in tensors):
            self.found.append((str(func), len(tensors[0])))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_only_products_are_grouped_ones_of_the_chosen_rows(dtype: torch.dtype) -> None:
    """A dense run would take every token to every expert: 20 x 8 rows instead of 20 x 3."""
    ours, _ = both(dtype)
    hidden = torch.randn(20, 32, dtype=dtype).requires_grad_()
    chosen = torch.stack([torch.randperm(8)[:3] for _ in range(20)])
    with UsesOf(list(ours.parameters())) as uses:
        ours(hidden, chosen, torch.rand(20, 3)).sum().backward()
    products = [use for use in uses.found if use[0] != "aten.transpose.int"]
    # forward, and backward to the rows; the gradient of the weights does not take the weights
    assert products == [("aten._grouped_mm.default", 60)] * 4
