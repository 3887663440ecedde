"""Two "nodes" on one machine, as torchrun and SLURM start them, are one run, reported once."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsvl_tune.cli.main import main

RECIPE = """
model:
  checkpoint: {checkpoint}
  preset: align
  lr: 1.0e-3
  min_lr_ratio: 1.0
  max_new_tokens: 4
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    train_charts: 11
    validation_charts: 3
    test_charts: 3
    retention_scenes: 1
    batch_size: 4
    questions: 3
trainer: {{accelerator: cpu, max_steps: 4, val_check_interval: 2, enable_progress_bar: false}}
"""
CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
OPTIONS = ["--config", "recipe.yaml", "--data.batch_size", "2", "--run_name", "nodes"]
# What srun does: a task on each node, which knows its place.
SRUN = """#!/bin/sh
SLURM_PROCID=0 SLURM_NODEID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
"""


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def finish(script: str, environments: list[dict[str, str]], folder: Path, *options: str) -> str:
    """What a script of the example printed, run once in each environment; each must succeed."""
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = [
        subprocess.Popen(
            ["sh", str(CLUSTER / script), *OPTIONS, *options],
            cwd=folder,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments
    ]
    try:
        printed = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(printed)
    return "\n".join(printed)


def under_torchrun(folder: Path, *options: str) -> str:
    """Both nodes' agents, started by hand as on two machines."""
    shared = {"NODES": "2", "FIRST": "127.0.0.1", "GPUS": "1", "PORT": free_port()}
    return finish(
        "torchrun.sh", [{**shared, "NODE": node} for node in ("0", "1")], folder, *options
    )


def under_slurm(folder: Path, *options: str) -> str:
    """A job of two nodes, with the variables that SLURM sets."""
    (folder / "srun").write_text(SRUN)
    (folder / "srun").chmod(0o755)
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "fit",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": "2",
    }
    task = {"SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "127.0.0.1"}
    return finish("slurm.sbatch", [{**job, **task, "MASTER_PORT": free_port()}], folder, *options)


@pytest.fixture(scope="module")
def folder(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "recipe.yaml").write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint), encoding="utf-8"
    )
    return folder


def dsvl_tune(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    with contextlib.suppress(SystemExit):  # what is missing then is found below
        main()


@pytest.mark.slow
def test_two_nodes_make_one_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps under torchrun, resumed under SLURM; and the same run in one process."""
    monkeypatch.chdir(folder)
    said = under_torchrun(folder, "--trainer.max_steps", "2")
    for line in (
        "plan for",
        "plan check after the first step",
        "held-out questions before",
        "next: dsvl-tune merge",
    ):
        assert said.count(line) == 1, said
    resumed = under_slurm(folder, "--ckpt_path", "last")
    assert resumed.count("steps: 4") == 1 and "held-out questions before" not in resumed

    dsvl_tune(monkeypatch, "fit", "--config", "recipe.yaml", "--run_name", "one")
    runs = folder / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["nodes", "one"]
    files = [
        sorted(
            str(p.relative_to(run))
            for p in run.rglob("*.json*")
            if "checkpoints" not in p.parts  # shards bring their checksums along
        )
        for run in (runs / "one", runs / "nodes")
    ]
    assert files[0] == files[1]
    for path in (runs / "one" / "predictions").iterdir():
        assert path.read_text() == (runs / "nodes" / "predictions" / path.name).read_text(), (
            path.name
        )
    one, nodes = (
        json.loads((runs / name / "summary.json").read_text()) for name in ("one", "nodes")
    )
    assert {**one, "wall_s": 0, "peak_rss_bytes": 0} == {**nodes, "wall_s": 0, "peak_rss_bytes": 0}
    weights = [
        load_file(runs / name / "adapter" / "full_parts.safetensors") for name in ("one", "nodes")
    ]
    assert set(weights[0]) == set(weights[1])
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-4, rtol=1e-3)

    assert (runs / "nodes" / "checkpoints" / "last.ckpt").is_dir()
    dsvl_tune(
        monkeypatch,
        "merge",
        "runs/nodes",
        "--checkpoint",
        "best",
        "--layout",
        "original",
        "--out",
        "kept",
    )
    dsvl_tune(
        monkeypatch, "merge", "runs/nodes", "--layout", "original", "--out", "result", "--rows", "0"
    )
    kept, result = (load_file(folder / name / "model.safetensors") for name in ("kept", "result"))
    assert all(torch.equal(tensor, result[name]) for name, tensor in kept.items())
