"""Two and four processes train as one does.

The losses, results and checkpoints are the same, with a share of the memory.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

PROCESSES = Path(__file__).with_name("processes.py")
QUESTIONS = {"a.png": 3, "b.png": 1, "c.png": 2, "d.png": 1, "e.png": 1}

LORA = {"model": {"preset": "lora", "lr": 2e-3}, "parts": {"aligner": {"mode": "lora", "rank": 4}}}
MIXED = {**LORA, "parts": {"sam_neck_hd": {"mode": "full"}, "aligner": {"mode": "full"}}}
DORA = {
    "model": {**LORA["model"], "lora_variant": "dora", "gradient_checkpointing": True},
    "parts": {},
}
SIXTEEN = {**MIXED, "model": {**LORA["model"], "dtype": "bfloat16"}, "precision": "bf16-mixed"}
STAGES = ("align", "pretrain", "sft", "full")
# What is trained: settings and steps. Four rows are a micro-batch, half of them text, whatever the
# number of processes.
PLANS: dict[str, dict[str, Any]] = {
    "lora": {**LORA, "steps": 4, "validate": True},
    "dora": {**DORA, "steps": 2, "accumulate": 2},
    "mixed": {**MIXED, "steps": 4},
    "sixteen": {**SIXTEEN, "steps": 2},
    # Every second step is text alone, which nothing that trains takes part in.
    "text": {
        "model": {"preset": "align", "lr": 1e-3},
        "parts": {},
        "steps": 4,
        "homogeneous_steps": True,
    },
    **{
        stage: {"model": {"preset": stage, "lr": 1e-3}, "parts": {}, "steps": 2} for stage in STAGES
    },
}


def write_rows(folder: Path) -> dict[str, str]:
    """Text of several lengths; pictures with one question or more, which become trees."""
    rows = {
        "text": [{"question": "Hi " * i, "answer": "yes " * i} for i in range(1, 6)],
        "image": [],
    }
    for number, (name, questions) in enumerate(QUESTIONS.items()):
        noise = torch.randint(
            0, 255, (30, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
        )
        Image.fromarray(noise.numpy()).save(folder / name)
        for i in range(questions):
            rows["image"].append(
                {"question": f"What {i}?", "answer": f"A {i}" * (i + 1), "image": name}
            )
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    return {name: str(folder / f"{name}.jsonl") for name in rows}


def chain(plan: str, links: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """A run stopped and resumed after each step, each time on another strategy and world size."""
    groups, before = [], None
    for number, (world_size, strategy) in enumerate(links, start=1):
        name = f"{plan}-link{number}"
        job = {
            **PLANS[plan],
            "validate": False,
            "steps": number,
            "save_at": number,
            "strategy": strategy,
            "name": name,
        }
        groups.append({"world_size": world_size, "jobs": [{**job, "resume": before}]})
        before = f"{name}.ckpt"
    return groups


@pytest.fixture(scope="module")
def done(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of every job."""
    folder = tmp_path_factory.mktemp("distributed")
    groups = []
    for world_size, strategy in ((1, "auto"), (2, "fsdp2"), (4, "fsdp2"), (2, "ddp")):
        jobs = [
            {**job, "strategy": strategy, "name": f"{name}-{strategy}{world_size}"}
            for name, job in PLANS.items()
        ]
        groups.append({"world_size": world_size, "jobs": jobs})
    groups += chain("lora", [(1, "auto"), (2, "fsdp2"), (4, "fsdp2"), (2, "ddp")])
    groups += chain("mixed", [(2, "fsdp2"), (4, "fsdp2"), (1, "auto"), (2, "fsdp2")])
    common = {"checkpoint": str(hybrid_checkpoint), "files": write_rows(folder)}
    for group in groups:
        group["jobs"] = [{**job, **common} for job in group["jobs"]]
    command = [sys.executable, str(PROCESSES), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        command, input=json.dumps(groups), text=True, check=True, timeout=900, env=environment
    )
    return folder


def result(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    kept: dict[str, Any] = pickle.loads((folder / f"{name}.{rank}.pickle").read_bytes())
    return kept


def trained(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {
        key: tensor
        for path in (folder / name).glob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


def difference(folder: Path, name: str, other: str) -> float:
    """Between two runs' trained tensors, as a share of their norm."""
    ones, others = trained(folder, name), trained(folder, other)
    assert ones and set(ones) == set(others)
    squares = [[((one - others[key]) ** 2).sum(), (one**2).sum()] for key, one in ones.items()]
    apart, size = torch.tensor(squares).sum(0).sqrt().tolist()
    return float(apart / size)


@pytest.mark.parametrize("many", ["fsdp22", "fsdp24", "ddp2"])
@pytest.mark.parametrize("plan", PLANS)
def test_losses_and_results_are_those_of_one_process(done: Path, plan: str, many: str) -> None:
    one, several = result(done, f"{plan}-auto1")["logged"], result(done, f"{plan}-{many}")["logged"]
    assert set(one) == set(several)
    tolerance = 3e-3 if plan == "sixteen" else 1e-5
    for name, values in one.items():
        assert several[name] == pytest.approx(values, rel=tolerance, abs=tolerance), name
    assert difference(done, f"{plan}-auto1", f"{plan}-{many}") < (
        0.1 if plan == "sixteen" else 1e-3
    )


@pytest.mark.parametrize("plan", ["lora", "mixed"])
def test_any_world_size_and_strategy_resumes_a_checkpoint(done: Path, plan: str) -> None:
    """One process, then two, four, ddp and so on, a step each: equal to an uninterrupted run."""
    whole = result(done, f"{plan}-auto1")["logged"]["train/loss"]
    links = [
        result(done, f"{plan}-link{number}")["logged"]["train/loss"] for number in (1, 2, 3, 4)
    ]
    assert [len(link) for link in links] == [1, 1, 1, 1]
    assert [loss for link in links for loss in link] == pytest.approx(whole, rel=1e-5)
    assert difference(done, f"{plan}-auto1", f"{plan}-link4") < 1e-3


def test_checkpoints_hold_what_trains(done: Path) -> None:
    """Adapters alone are one file of one form; with a fully trained part the file is sharded."""
    files = [
        torch.load(done / f"lora-link{number}.ckpt", weights_only=True) for number in (1, 2, 3, 4)
    ]
    for file in files:
        assert set(file["state_dict"]) == set(files[0]["state_dict"])
        assert all("lora_" in name for name in file["state_dict"])
        shapes = {name: tensor.shape for name, tensor in files[0]["state_dict"].items()}
        assert {name: tensor.shape for name, tensor in file["state_dict"].items()} == shapes
        assert (done / "lora-link1.ckpt").stat().st_size < 600_000
    assert [(done / f"mixed-link{number}.ckpt").is_dir() for number in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        True,
    ]
    assert len(list((done / "mixed-link2.ckpt").glob("__*.distcp"))) == 4
    assert not list(done.glob(".*"))


@pytest.mark.parametrize("plan", ["lora", "full"])
def test_each_process_holds_its_share(done: Path, plan: str) -> None:
    """1 / world size of parameters, gradients and optimizer state, give or take a row a tensor."""
    one = result(done, f"{plan}-auto1")["held"]
    for world_size in (2, 4):
        shares = [
            result(done, f"{plan}-fsdp2{world_size}", rank)["held"] for rank in range(world_size)
        ]
        for kind, held in one.items():
            assert sum(share[kind] for share in shares) == held
            assert max(share[kind] for share in shares) < 1.05 * held / world_size
