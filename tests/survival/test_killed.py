"""Killed commands, alone and in two processes; `benchmarks/soak/kill.py` does it at random."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from runs import Commands, assert_equal_runs, last, wait_for, write_recipe
from torch.distributed import TCPStore

FIT = ("fit", "--config", "run.yaml")


def test_killed_in_a_save_and_elsewhere_it_comes_to_the_same_bits(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path, commands: Commands
) -> None:
    write_recipe(tmp_path, hybrid_checkpoint, checkpoint_every_steps=1)
    run = tmp_path / "runs" / "run"
    moments = [
        lambda: (run / ".lock").exists(),  # the folder is made, and nothing is in it
        lambda: (run / "config.yaml").exists(),  # nothing is saved yet
        lambda: any(
            (run / "checkpoints").glob("best-*.ckpt")
        ),  # the last checkpoint does not know of it
        lambda: any((run / "checkpoints").glob(".next.ckpt.partial")),  # a save has begun
        lambda: (
            run / "adapter" / "adapter_model.safetensors"
        ).exists(),  # all is trained, the result is half made
    ]
    for moment in moments:
        process = commands.start(tmp_path, *FIT)
        wait_for(moment, within_s=300)
        os.killpg(process, signal.SIGKILL)
        assert commands.ends(process, within_s=300) == -signal.SIGKILL
    assert commands.ends(commands.start(tmp_path, *FIT), within_s=300) == 0
    assert_equal_runs(whole_run, run)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def test_a_second_command_in_the_same_folder_is_refused(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path, commands: Commands
) -> None:
    write_recipe(tmp_path, hybrid_checkpoint)
    lock = tmp_path / "runs" / "run" / ".lock"
    first = commands.start(tmp_path, *FIT)
    holder = f"process {first} on"
    wait_for(lambda: lock.exists() and holder in lock.read_text(encoding="utf-8"), within_s=300)
    os.killpg(
        first, signal.SIGSTOP
    )  # it may not come to its end before the second asks, however busy the machine
    second = commands.start(tmp_path, *FIT, log="second")
    assert commands.ends(second, within_s=300) == 2
    assert holder in (tmp_path / "second").read_text(encoding="utf-8")
    os.killpg(first, signal.SIGCONT)
    assert commands.ends(first, within_s=300) == 0
    assert_equal_runs(whole_run, lock.parent)


def start_two_by_srun(commands: Commands, folder: Path) -> list[int]:
    """The command as srun starts it: two processes that know their job and their number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "tune",
        "SLURM_JOB_ID": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    return [
        commands.start(
            folder,
            *FIT,
            log=f"log{rank}",
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            **common,
        )
        for rank in (0, 1)
    ]


def start_two(commands: Commands, folder: Path) -> tuple[list[int], TCPStore]:
    """The command as torchrun starts it: two processes and the store that they meet through."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        commands.start(
            folder, *FIT, log=f"log{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **common
        )
        for rank in (0, 1)
    ]
    return ranks, store


def test_two_processes_stop_together_and_end_when_one_is_lost(
    hybrid_checkpoint: Path, tmp_path: Path, commands: Commands
) -> None:
    for name in ("whole", "stopped"):
        write_recipe(
            tmp_path / name,
            hybrid_checkpoint,
            checkpoint_every_steps=1,
            trainer__devices=2,
            trainer__strategy="ddp_find_unused_parameters_true",
        )
    ranks = start_two_by_srun(commands, tmp_path / "whole")
    assert [commands.ends(rank, within_s=300) for rank in ranks] == [0, 0]
    folder = tmp_path / "stopped"
    run = folder / "runs" / "run"

    def after_step(step: int) -> None:
        path = run / "checkpoints" / "last.ckpt"
        wait_for(lambda: path.exists() and last(run)["global_step"] >= step, within_s=300)

    ranks, _store = start_two(commands, folder)
    after_step(2)
    os.kill(ranks[1], signal.SIGTERM)  # one gets the signal, both stop
    assert [commands.ends(rank, within_s=300) for rank in ranks] == [75, 75]
    step = last(run)["global_step"]
    for killed in (1, 0):
        ranks, _store = start_two(commands, folder)
        after_step(step := step + 2)
        os.kill(ranks[killed], signal.SIGKILL)
        assert commands.ends(ranks[1 - killed], within_s=300) == 2
        assert "another rank exited" in (folder / f"log{1 - killed}").read_text(encoding="utf-8")
        commands.ends(ranks[killed], within_s=300)
        step = last(run)["global_step"]
    ranks, _store = start_two(commands, folder)
    assert [commands.ends(rank, within_s=300) for rank in ranks] == [0, 0]
    assert_equal_runs(tmp_path / "whole" / "runs" / "run", run)
