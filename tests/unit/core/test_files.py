"""A file appears whole or not at all, also on a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_folder, atomic_write, write_json
from dsvl_tune.core.storage.tensor_files import save_tensors


def fill(path: Path) -> None:
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()
    with pytest.raises(UserError, match="No space left on device"):
        atomic_write(path, fill)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["summary.json"]


def test_a_full_disk_while_saving_tensors(tmp_path: Path) -> None:
    """A real limit on file size stands in for a full disk: the kernel refuses bytes beyond it."""
    path = tmp_path / "adapter_model.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    script = f"""
import resource, signal, torch
from pathlib import Path
from dsvl_tune.core.storage.files import atomic_write
from dsvl_tune.core.storage.tensor_files import save_tensors
from dsvl_tune.core.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write(Path({str(path)!r}), lambda p: save_tensors(p, {{"a": torch.zeros(100_000)}}))
except UserError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "refused:" in done.stdout
    assert load_file(path)["a"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == [path.name]


def test_tensors_are_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    (tmp_path / "b").write_text("b")
    assert path.stat().st_mode == (tmp_path / "b").stat().st_mode


def fill_folder(target: Path, overwrite: bool, error: BaseException | None = None) -> None:
    with atomic_folder(target, overwrite) as partial:
        (partial / "new").write_text("new")
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_a_folder_that_is_not_finished_leaves_the_old_one(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(type(error)):
        fill_folder(target, overwrite=True, error=error)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "target",
        "target/old",
    ]
    with pytest.raises(UserError, match="not an empty folder"):
        fill_folder(target, overwrite=False)
    fill_folder(target, overwrite=True)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "target",
        "target/new",
    ]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / ".target.replaced").mkdir()
    (tmp_path / ".target.replaced" / "old").write_text("old")
    with pytest.raises(UserError, match="not an empty folder"):
        fill_folder(tmp_path / "target", overwrite=False)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "target",
        "target/old",
    ]


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        fill_folder(tmp_path / "target", overwrite=True)
    assert (tmp_path / "target").read_text() == "mine"
