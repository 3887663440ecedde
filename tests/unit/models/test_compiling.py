"""Compiled layers: eager losses and gradients, same tensor names, no recompilation per length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import assert_as_near, exact_copy
from torch import Tensor
from torch._dynamo.utils import counters

from dsvl_tune.core.errors import UserError
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.attention_mask import answering
from dsvl_tune.models.runtime.compile import compile_layers


def losses(model: torch.nn.Module, width: int) -> dict[str, Tensor]:
    ids = torch.randint(5, 500, (3, width), generator=torch.Generator().manual_seed(width))
    decoder: Any = model.model
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
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
    reference = exact_copy(eager)
    for width in (20, 33, 57):
        assert_as_near(losses(reference, width), losses(eager, width), losses(compiled, width))
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


OTHER_PROCESSOR = """
from types import SimpleNamespace
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from dsvl_tune.models.runtime.compile import compile_layers
torch.manual_seed(0)
layer, x = LlamaRMSNorm(24), torch.randn(50, 24)
expected = layer(x)
decoder = SimpleNamespace(language_model=SimpleNamespace(layers=[layer]))
compile_layers(SimpleNamespace(model=decoder))
torch.testing.assert_close(layer(x), expected)
"""


@pytest.mark.slow
def test_a_cache_shared_with_another_processor(tmp_path: Path) -> None:
    """The cache is filled for this one and then used by one with narrower vectors."""
    for environment in ({}, {"ATEN_CPU_CAPABILITY": "avx2"}, {"ATEN_CPU_CAPABILITY": "default"}):
        shared = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), **environment}
        subprocess.run([sys.executable, "-c", OTHER_PROCESSOR], env=shared, check=True)


def test_without_a_compiler_the_key_is_named(
    hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"model.compile: .* no-such-compiler is not installed"):
        compile_layers(create_model(open_checkpoint(hybrid_checkpoint)))
