"""Head and cross entropy in chunks, against torch's cross entropy on all logits at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from reference import assert_as_near, exact_copy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss as chunked_head_loss

TOKENS = 13
WIDTH = 4
VOCABULARY = 37
CHUNK_TOKENS = 5

head_loss = partial(chunked_head_loss, chunk_tokens=CHUNK_TOKENS)


class Network(nn.Module):
    """Embeddings, a layer, and a head, which may be tied to the embeddings or have an adapter."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if kind == "tied":
            self.lm_head.weight = self.embed.weight
        self.lm_head.weight.requires_grad_(kind in ("full", "tied"))
        if kind in ("lora", "dora"):
            config = LoraConfig(
                r=2, target_modules=["lm_head"], init_lora_weights=False, use_dora=kind == "dora"
            )
            inject_adapter_in_model(config, self)
            self.embed.requires_grad_(True)
            self.mix.requires_grad_(True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mix(self.embed(ids))


def plain(
    head: nn.Module, hidden: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    logits = head(hidden)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(logits, targets, reduction="none")
    return torch.dot(losses, weights.to(losses.dtype)), losses


def results(
    kind: str, loss: Any, tokens: int = TOKENS, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Loss, losses and every gradient of two micro-batches that add up, the second one scaled.

    In float64, float32, or mixed precision with bfloat16.
    """
    network = exact_copy(Network(kind)) if dtype == torch.float64 else Network(kind)
    draw = torch.Generator().manual_seed(1)
    found = {}
    for part, scale in enumerate((1.0, 3.0)):
        ids, targets = torch.randint(VOCABULARY, (2, tokens), generator=draw)
        scales = torch.tensor([0.5, 2.0])[torch.arange(tokens) % 2]
        weights = torch.rand(tokens, generator=draw) * scales
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss_sum, losses = loss(network.lm_head, network(ids), targets, weights)
            (loss_sum * scale).backward()
        found |= {f"loss {part}": loss_sum.detach(), f"losses {part}": losses.detach()}
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    return found | {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens", [0, 1, 5, TOKENS])
@pytest.mark.parametrize("kind", ["frozen", "full", "tied", "lora", "dora"])
def test_chunks_equal_all_logits_at_once(kind: str, tokens: int) -> None:
    truth = results(kind, plain, tokens, torch.float64)
    assert_as_near(truth, results(kind, plain, tokens), results(kind, head_loss, tokens))


@pytest.mark.parametrize("kind", ["frozen", "full", "lora"])
def test_mixed_precision_is_as_close_to_float64_as_the_plain_way(kind: str) -> None:
    truth = results(kind, plain, dtype=torch.float64)
    theirs, ours = (results(kind, loss, dtype=torch.bfloat16) for loss in (plain, head_loss))
    assert_as_near(truth, theirs, ours, factor=1.5)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            self.elements = max(self.elements, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return made


@pytest.mark.parametrize("with_grad", [True, False])
def test_the_logits_of_all_tokens_never_exist(with_grad: bool) -> None:
    network = Network("frozen")
    ids, targets = torch.randint(VOCABULARY, (2, 20))
    with torch.set_grad_enabled(with_grad):
        hidden = network(ids)
        with Largest() as largest:
            loss_sum, _ = head_loss(network.lm_head, hidden, targets, torch.ones(20))
        with Largest() as largest_plain:
            plain(network.lm_head, hidden, targets, torch.ones(20))
    assert largest.elements == CHUNK_TOKENS * VOCABULARY < largest_plain.elements == 20 * VOCABULARY
    assert loss_sum.requires_grad == with_grad
