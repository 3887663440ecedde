"""Checkpoint files on a full disk, under a kill and after damage; who may write to a run folder."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.files import (
    LAST,
    NEXT,
    PREVIOUS,
    AtomicCheckpointIO,
    keep_as_last,
    newest_whole,
)
from dsvl_tune.training.run.folder import find_checkpoint
from dsvl_tune.training.run.lock import lock_run, one_at_a_time


def save(run: Path, step: int) -> None:
    """What a run does at a step."""
    AtomicCheckpointIO().save_checkpoint(
        {"global_step": step, "state_dict": {"w": torch.full((1000,), step)}}, run / NEXT
    )
    keep_as_last(run)


def step(path: Path | None) -> int:
    assert path is not None
    return torch.load(path, weights_only=True)["global_step"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    return tmp_path


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """The kernel refuses what a process writes beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_newest_and_the_one_before_are_kept(run: Path) -> None:
    assert (step(run / LAST), step(run / PREVIOUS)) == (2, 1)
    save(run, 3)
    assert (step(run / LAST), step(run / PREVIOUS)) == (3, 2)
    assert sorted(os.listdir(run / "checkpoints")) == ["last.ckpt", "previous.ckpt"]


def test_a_full_disk_error_has_path_and_bytes_and_keeps_both(run: Path) -> None:
    with files_no_larger_than(3000), pytest.raises(UserError) as raised:
        save(run, 3)
    message = str(raised.value)
    assert str(run / NEXT) in message and "File too large" in message and "8,000 bytes" in message
    assert (step(run / LAST), step(run / PREVIOUS)) == (2, 1)
    assert sorted(os.listdir(run / "checkpoints")) == ["last.ckpt", "previous.ckpt"]
    save(run, 3)
    assert step(newest_whole(run)) == 3


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_kill_between_any_two_renames_loses_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Renames of a save succeed up to `renames`; what is left is the newest or the one before."""
    plain, done = os.rename, []

    def rename(self: Path, target: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        plain(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", rename)
        try:
            save(run, 3)
        except KeyboardInterrupt:
            assert renames < 3
    assert step(newest_whole(run)) == (3 if renames == 3 else 2)
    save(run, 4)
    assert step(newest_whole(run)) == 4


@pytest.mark.parametrize("damage", ["cut off", "zeros", "one bit", "empty"])
def test_a_damaged_checkpoint_is_passed_over(
    run: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = run / LAST
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        del content[len(content) // 2 :]
    elif damage == "zeros":
        content[2000:4000] = bytes(2000)
    elif damage == "one bit":
        content[3000] ^= 1
    else:
        content.clear()
    path.write_bytes(content)
    assert step(newest_whole(run)) == 1
    assert f"{path} is damaged" in capsys.readouterr().out
    (run / PREVIOUS).write_bytes(b"")
    assert newest_whole(run) is None


def test_no_order_follows_from_the_clock(run: Path) -> None:
    """Clocks are put right; a copy may have any times."""
    for number in (9, 10, 100):
        torch.save({"global_step": number}, run / "checkpoints" / f"best-step={number}.ckpt")
    for age, path in enumerate(sorted((run / "checkpoints").iterdir())):
        os.utime(path, (2**31 + 1000 * age, 2**31 - 1000 * age))
    assert step(newest_whole(run)) == 2
    assert step(find_checkpoint(run, "last")) == 2
    assert step(find_checkpoint(run, "best")) == 100


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.truncate(0)
print("process 7 on elsewhere", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_folder_has_one_process_until_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(
            UserError, match=r"process 7 on elsewhere is training there.*--run_name"
        ):
            lock_run(tmp_path)
        holder.kill()
        holder.wait()
    with lock_run(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    for folder in (
        tmp_path / "runs" / "run",
        Path("/proc/runs/run"),
        Path("/sys/run"),
    ):  # the kernel's are nobody's
        with pytest.raises(UserError, match=r"cannot be written.*--run_dir"), one_at_a_time(folder):
            pass


def test_what_a_failed_start_made_is_unmade_and_nothing_else(tmp_path: Path) -> None:
    run, other = tmp_path / "runs" / "run", tmp_path / "runs" / "other"
    fail_after(run, lambda: None)
    assert not (tmp_path / "runs").exists()
    fail_after(run, other.mkdir)
    assert other.exists() and not run.exists()
    fail_after(run, lambda: save(run, 1))
    assert step(newest_whole(run)) == 1


def fail_after(run: Path, work: Callable[[], object]) -> None:
    with pytest.raises(UserError, match="bad row"), one_at_a_time(run):
        raise UserError(f"bad row{work() or ''}")
