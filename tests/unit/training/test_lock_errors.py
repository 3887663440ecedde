"""What a run folder says that cannot be locked, or whose recipe cannot be read."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.recipe.recipe import read_settings
from dsvl_tune.training.run.folder import place_run
from dsvl_tune.training.run.lock import lock_run


def test_a_file_system_without_locks_is_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(UserError, match=r"its file system has no locks .*--run_dir"):
        lock_run(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"\x00\xff garbage", b"model: [", b"- a list", b"model: {lr: .nan}", b"no_such_key: 1", b""],
)
def test_a_recipe_that_cannot_be_read_does_not_block_the_name(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_bytes(content)
    folder, checkpoint = place_run(
        tmp_path / "mine", ckpt_path=None, resume="auto", settings={}, read_settings=read_settings
    )
    assert (folder.name, checkpoint) == ("mine-2", None)
    printed = capsys.readouterr().out
    assert str(tmp_path / "mine") in printed
    assert "starting a new run" in printed
    assert (tmp_path / "mine" / "config.yaml").read_bytes() == content
