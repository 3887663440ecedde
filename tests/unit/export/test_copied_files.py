"""What goes along with the weights: the checkpoint's own regular files, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.export.convert_checkpoint import convert_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "siglip" / "checkpoint"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    return Path(shutil.copytree(GOLDEN, tmp_path / "source"))


def convert(source: Path, target: Path, layout: str = "transformers") -> None:
    convert_checkpoint(str(source), target, layout, overwrite=False, sha256=None)


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE-MODEL", "README.md", "extra.json", "a.txt"])
def test_a_link_out_of_the_folder_is_refused(source: Path, name: str, tmp_path: Path) -> None:
    (source / name).symlink_to(Path("..", "secret.txt"))
    with pytest.raises(UserError, match=f"{name}: is a link out of the checkpoint"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["original", "LICENSES"])
def test_a_linked_folder_is_refused(source: Path, name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    convert(source, tmp_path / "here")
    (tmp_path / "here" / "SHA256SUMS").unlink()
    shutil.rmtree(tmp_path / "here" / "original")
    (tmp_path / "here" / name).symlink_to(outside)
    with pytest.raises(UserError, match="is a link out of the checkpoint"):
        convert(tmp_path / "here", tmp_path / "out", "original")


def test_a_pipe_is_refused(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "LICENSE")
    with pytest.raises(UserError, match="LICENSE: neither a file nor a folder"):
        convert(source, tmp_path / "out")


def test_a_broken_link_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "README.md").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"README.md: is not a regular file"):
        convert(source, tmp_path / "out")


def test_links_within_the_folder_and_a_folder_of_licenses_are_copied(
    source: Path, tmp_path: Path
) -> None:
    (source / "LICENSES").mkdir()
    (source / "LICENSES" / "MODEL").write_text("terms", encoding="utf-8")
    (source / "LICENSE").symlink_to(Path("LICENSES", "MODEL"))
    convert(source, tmp_path / "out")
    for name in ("LICENSE", "LICENSES/MODEL"):
        copied = tmp_path / "out" / name
        assert copied.read_text(encoding="utf-8") == "terms" and not copied.is_symlink()


def test_the_links_of_the_hubs_cache_are_followed(source: Path, tmp_path: Path) -> None:
    """Its snapshots are links to blobs, outside of the snapshot's folder."""
    repository = tmp_path / "models--owner--name"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (source / "LICENSE").write_text("terms", encoding="utf-8")
    for number, path in enumerate(sorted(source.iterdir())):
        path.rename(repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    convert(snapshot, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text(encoding="utf-8") == "terms"
