"""Two processes train Janus and DeepSeek-VL2 as one does, with experts sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_parity import PROCESSES, difference, result, write_rows

EXPERTS: dict[str, dict[str, Any]] = {
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
    "packed": {
        "model": {"preset": "qlora", "lr": 2e-3, "gradient_checkpointing": True},
        "parts": {"experts": {"mode": "lora", "rank": 3}},
        "steps": 2,
    },
    "recomputed": {
        "model": {"preset": "full", "lr": 1e-3, "gradient_checkpointing": True},
        "parts": {},
        "balance": 0.1,
        "steps": 2,
        "accumulate": 2,
    },
}
JANUS: dict[str, dict[str, Any]] = {
    "lora": {
        "model": {"preset": "lora", "lr": 2e-3},
        "parts": {"siglip": {"mode": "lora", "rank": 2}},
        "steps": 3,
        "validate": True,
    },
    "sft": {
        "model": {"preset": "sft", "lr": 1e-3, "gradient_checkpointing": True},
        "parts": {},
        "steps": 2,
        "accumulate": 2,
    },
}
FAMILIES = {"deepseek_vl2_checkpoint": EXPERTS, "janus_checkpoint": JANUS}
"""Session fixture that gives the folder of a random tiny checkpoint -> what is trained of it."""

STRATEGIES = ((1, "auto"), (2, "fsdp2"), (2, "ddp"))
RUNS = [
    (checkpoint, plan, many)
    for checkpoint, plans in FAMILIES.items()
    for plan in plans
    for many in ("fsdp22", "ddp2")
]


@pytest.fixture(scope="module")
def done(
    deepseek_vl2_checkpoint: Path, janus_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the results of every job."""
    folder = tmp_path_factory.mktemp("families")
    folders = {
        "deepseek_vl2_checkpoint": str(deepseek_vl2_checkpoint),
        "janus_checkpoint": str(janus_checkpoint),
    }
    files = write_rows(folder)
    groups = [
        {
            "world_size": size,
            "jobs": [
                {
                    **{**job, "checkpoint": folders[checkpoint], "files": files},
                    **{"strategy": strategy, "name": f"{checkpoint}-{name}-{strategy}{size}"},
                }
                for checkpoint, plans in FAMILIES.items()
                for name, job in plans.items()
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


@pytest.mark.parametrize(("checkpoint", "plan", "many"), RUNS)
def test_losses_and_weights_are_those_of_one_process(
    done: Path, checkpoint: str, plan: str, many: str
) -> None:
    name = f"{checkpoint}-{plan}"
    one, several = result(done, f"{name}-auto1")["logged"], result(done, f"{name}-{many}")["logged"]
    assert set(one) == set(several)
    for key, values in one.items():
        assert several[key] == pytest.approx(values, rel=1e-5, abs=1e-5), key
    assert difference(done, f"{name}-auto1", f"{name}-{many}") < 1e-3


@pytest.mark.parametrize(("checkpoint", "plan", "many"), RUNS)
def test_adapters_start_as_those_of_one_process(
    done: Path, checkpoint: str, plan: str, many: str
) -> None:
    one, several = (result(done, f"{checkpoint}-{plan}-{run}")["start"] for run in ("auto1", many))
    assert one.keys() == several.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, several[name]), name


def test_the_balance_loss_was_logged(done: Path) -> None:
    logged = result(done, "deepseek_vl2_checkpoint-recomputed-auto1")["logged"]
    assert all(value > 2 for value in logged["train/loss_balance"])  # of two layers


def test_each_process_holds_half_of_the_experts(done: Path) -> None:
    one = result(done, "deepseek_vl2_checkpoint-mixed-auto1")["held"]
    shares = [
        result(done, "deepseek_vl2_checkpoint-mixed-fsdp22", rank)["held"] for rank in range(2)
    ]
    for kind, held in one.items():
        assert sum(share[kind] for share in shares) == held
        assert max(share[kind] for share in shares) < 1.05 * held / 2
