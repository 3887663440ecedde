"""Compiled layers: the eager losses and gradients, the names of the tensors, and no compilation for every length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from dsvl_tune.core.errors import UserError
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.attention_mask import answering
from dsvl_tune.models.runtime.compile import compile_layers


def losses(model: torch.nn.Module, width: int) -> dict[str, Tensor]:
    ids = torch.randint(5, 500, (3, width), generator=torch.Generator().manual_seed(width))
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[union-attr, operator]
    loss = hidden.square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), **gradients}


def test_compiled_layers_equal_eager_ones_at_any_length(hybrid_checkpoint: Path) -> None:
    eager, compiled = (
        create_model(open_checkpoint(hybrid_checkpoint)).train(),
        create_model(open_checkpoint(hybrid_checkpoint)).train(),
    )
    compile_layers(compiled)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    counters.clear()
    for width in (20, 33, 57):
        expected = losses(eager, width)
        for name, value in losses(compiled, width).items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5, msg=name)
    assert counters["stats"]["unique_graphs"] == 1  # one for both layers and all lengths
    with answering(compiled):
        asked = {
            "input_ids": torch.tensor([[7, 8, 9]]),
            "max_new_tokens": 4,
            "do_sample": False,
            "pad_token_id": 0,
        }
        assert torch.equal(compiled.eval().generate(**asked), eager.eval().generate(**asked))
    assert counters["stats"]["unique_graphs"] == 1


def test_without_a_compiler_the_key_is_named(
    hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"model.compile: .* no no-such-compiler here"):
        compile_layers(create_model(open_checkpoint(hybrid_checkpoint)))
