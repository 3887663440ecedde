"""No output option replaces an input or a file that we did not write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.outputs import check_output_file, check_output_folder


def is_page(path: Path) -> bool:
    return path.read_text().startswith("<html")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """An input of the command."""
    path = tmp_path / "rows.jsonl"
    path.write_text("<html> would even look like a page of ours\n")
    return path


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard", "relative"])
def test_an_input_is_never_replaced(rows: Path, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = rows.with_name("out.html")
    if link == "symbolic":
        out.symlink_to(rows)
    elif link == "hard":
        os.link(rows, out)
    elif link == "relative":
        monkeypatch.chdir(rows.parent)
        out = Path("../") / rows.parent.name / rows.name
    else:
        out = rows
    with pytest.raises(UserError, match="is an input"):
        check_output_file(out, "--out", is_page, inputs=[rows])


def test_only_own_files_are_replaced(tmp_path: Path) -> None:
    page, thesis = tmp_path / "page.html", tmp_path / "thesis.txt"
    page.write_text("<html>")
    thesis.write_text("years of work")
    check_output_file(page, "--out", is_page)
    check_output_file(tmp_path / "new.html", "--out", is_page)
    with pytest.raises(UserError, match="not written by this command"):
        check_output_file(thesis, "--out", is_page)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not written by this command"):
        check_output_file(tmp_path / "dangling", "--out", is_page)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not written by this command"):
        check_output_file(tmp_path / "pipe", "--out", is_page)


def test_a_folder_is_no_file_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        check_output_file(tmp_path, "--out", is_page)
    with pytest.raises(UserError, match="no such folder"):
        check_output_file(tmp_path / "none" / "page.html", "--out", is_page)


def is_export(path: Path) -> bool:
    return [file.name for file in path.iterdir()] == ["SHA256SUMS"]


def test_only_an_own_folder_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_output_folder(out, "--out", is_export)
    out.mkdir()
    check_output_folder(out, "--out", is_export)
    (out / "SHA256SUMS").touch()
    with pytest.raises(UserError, match="not empty"):
        check_output_folder(out, "--out", is_export)
    check_output_folder(out, "--out", is_export, overwrite=True)
    (out / "thesis.txt").touch()
    with pytest.raises(UserError, match="left as it is"):
        check_output_folder(out, "--out", is_export, overwrite=True)


@pytest.mark.parametrize("place", ["same", "inside", "around", "linked"])
def test_a_folder_never_overlaps_with_an_input(tmp_path: Path, place: str) -> None:
    source = tmp_path / "models" / "base"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    out = {
        "same": source,
        "inside": source / "merged",
        "around": tmp_path / "models",
        "linked": tmp_path / "link",
    }[place]
    with pytest.raises(UserError, match="overlaps"):
        check_output_folder(out, "DST", is_export, inputs=[source], overwrite=True)
