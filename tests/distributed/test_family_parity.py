"""Two processes train a DeepSeek-VL2 as one does: experts sharded, text and images mixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_parity import PROCESSES, difference, result, write_rows

PLANS: dict[str, dict[str, Any]] = {
    "mixed": {
        "model": {"preset": "lora", "lr": 2e-3},
        "parts": {
            "experts": {"mode": "full"},
            "projector": {"mode": "full"},
            "tile_embeddings": {"mode": "full"},
        },
        "steps": 3,
        "validate": True,
    },
    "adapted": {
        "model": {"preset": "lora", "lr": 2e-3},
        "parts": {"experts": {"mode": "lora", "rank": 3}},
        "steps": 3,
    },
    "packed": {
        "model": {"preset": "qlora", "lr": 2e-3, "gradient_checkpointing": True},
        "parts": {"experts": {"mode": "lora", "rank": 3}},
        "steps": 2,
    },
    "recomputed": {
        "model": {"preset": "full", "lr": 1e-3, "gradient_checkpointing": True},
        "parts": {},
        "steps": 2,
        "accumulate": 2,
    },
}
STRATEGIES = ((1, "auto"), (2, "fsdp2"), (2, "ddp"))


@pytest.fixture(scope="module")
def done(deepseek_vl2_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of every job."""
    folder = tmp_path_factory.mktemp("distributed_vl2")
    common = {"checkpoint": str(deepseek_vl2_checkpoint), "files": write_rows(folder)}
    groups = [
        {
            "world_size": size,
            "jobs": [
                {**job, **common, "strategy": strategy, "name": f"{name}-{strategy}{size}"}
                for name, job in PLANS.items()
            ],
        }
        for size, strategy in STRATEGIES
    ]
    subprocess.run(
        [sys.executable, str(PROCESSES), str(folder)],
        input=json.dumps(groups),
        text=True,
        check=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.mark.parametrize("many", ["fsdp22", "ddp2"])
@pytest.mark.parametrize("plan", PLANS)
def test_losses_and_weights_are_those_of_one_process(done: Path, plan: str, many: str) -> None:
    one, several = result(done, f"{plan}-auto1")["logged"], result(done, f"{plan}-{many}")["logged"]
    assert set(one) == set(several)
    for name, values in one.items():
        assert several[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
    assert difference(done, f"{plan}-auto1", f"{plan}-{many}") < 1e-3


def test_each_process_holds_half_of_the_experts(done: Path) -> None:
    one = result(done, "mixed-auto1")["held"]
    shares = [result(done, "mixed-fsdp22", rank)["held"] for rank in range(2)]
    for kind, held in one.items():
        assert sum(share[kind] for share in shares) == held
        assert max(share[kind] for share in shares) < 1.05 * held / 2
