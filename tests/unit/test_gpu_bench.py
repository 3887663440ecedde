"""What the benchmark for a GPU says without one: FLOPs, goals, and that nothing was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_bench", BENCHMARKS / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flops_of_the_decoder(bench: ModuleType, tmp_path: Path) -> None:
    """A frozen matrix takes two products, an adapter's three, attention two and then five."""
    from gpu_ours import flops_and_bytes
    from gpu_step import TOKENS, config_of
    from step_bench import RANK

    config = config_of("1.3B", small=False)
    config.text_config.num_hidden_layers = 6
    config.save_pretrained(tmp_path)
    total, decoder, estimated = flops_and_bytes(tmp_path, questions=1)
    text = config.text_config
    layers, width, inner = text.num_hidden_layers, text.hidden_size, text.intermediate_size
    matrices = 4 * width * width + 3 * width * inner
    adapters = RANK * (4 * 2 * width + 3 * (width + inner))
    attention = (2 + 5) * width * TOKENS  # each token with every other
    expected = 2 * TOKENS * layers * (2 * matrices + 3 * adapters + attention)
    assert decoder == pytest.approx(expected, rel=0.03)  # the first layer's input has no gradient
    assert total > decoder
    assert estimated > 2 * layers * matrices


def test_goals(bench: ModuleType) -> None:
    figures = bench.Figures(
        tokens=1,
        step_s=1.0,
        memory_bytes=100,
        decoder_s=0.5,
        flops=80,
        decoder_flops=25,
        estimate_bytes=120,
    )
    lines = [bench.Line("7B", "one", figures), bench.Line("7B", "unsloth", None, "not installed")]
    data = {"7B": {"wait_s": 0.0, "step_s": 1.0}}
    assert [row[2:] for row in bench.goals(lines, data, rate=100.0)] == [
        ["50.0%", "met"],
        ["0.0%", "met"],
        ["16.7%", "not met"],
    ]
    assert {row[3] for row in bench.goals([], {}, rate=100.0)} == {"not measured"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is here")
def test_without_a_card(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    bench.main()
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1
    assert "skipped" in said and "needs a CUDA device with bfloat16" in said
