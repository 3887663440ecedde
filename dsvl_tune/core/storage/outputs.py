"""Whether a command may write to a place: never over an input, never over a stranger's file.

Every option that names an output asks here before the work begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dsvl_tune.core.errors import UserError


def check_output_file(
    path: Path,
    option: str,
    is_own: Callable[[Path], bool],
    inputs: Iterable[Path] = (),
) -> None:
    """Check that a file can be written, and that writing it destroys nothing.

    Args:
        path: of the output.
        option: the option that names it, e.g. "--out".
        is_own: whether an existing file is an earlier output of the same kind, which may be
            replaced.
        inputs: files that the command reads; links to them count, too.

    Raises:
        UserError: the folder does not exist, or the file exists and is an input or not our own.
    """
    where = f"{option} {path}"
    if path.is_dir():
        raise UserError(f"{where}: is a folder. Give the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"{where}: no such folder. Give a file in a folder that exists.")
    if not path.exists() and not path.is_symlink():
        return
    if any(is_same(path, source) for source in inputs):
        raise UserError(f"{where}: is an input of this command. Choose another file.")
    if not path.is_file() or not is_own(path):
        raise UserError(
            f"{where}: exists and was not written by this command. Choose another name, or remove "
            "it first."
        )


def check_output_folder(
    path: Path,
    option: str,
    is_own: Callable[[Path], bool],
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
) -> None:
    """Check that a folder can be made, and that making it destroys nothing.

    Args:
        path: of the output.
        option: the option or argument that names it.
        is_own: whether an existing folder holds nothing but an earlier output of the same kind.
        inputs: folders that the command reads; the output may not be, contain or be in one.
        overwrite: whether an earlier output may be replaced.

    Raises:
        UserError: the folder exists and holds something, or overlaps with an input.
    """
    where = f"{option} {path}"
    for source in inputs:
        own, other = path.resolve(), source.resolve()
        if own == other or own in other.parents or other in own.parents:
            raise UserError(f"{where}: overlaps with the input {source}. Choose another folder.")
    if path.exists() and not path.is_dir():
        raise UserError(f"{where}: is a file. Give the name of a new folder.")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{where}: exists and is not empty. Choose a new folder.")
    if not is_own(path):
        raise UserError(
            f"{where}: holds files that were not written by this command, and is left as it is. "
            "Choose a new folder."
        )


def check_new(path: Path, option: str) -> None:
    """Check that a file or folder can be made where nothing is, no link that leads nowhere either.

    Args:
        path: of the output.
        option: the option or argument that names it.

    Raises:
        UserError: there is something, or a folder above it is a file or may not be written to.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{option} {path}: exists. Give a new name.")
    check_shared_folder(path.absolute().parent, option)


def check_shared_folder(path: Path, option: str) -> None:
    """Check that files can be put into a folder, which is made where it is missing.

    Args:
        path: of the folder.
        option: the option that names it.

    Raises:
        UserError: it or a folder above it is a file, or may not be written to.
    """
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise UserError(f"{option} {path}: {there} is a file. Give the name of a folder.")
    if not os.access(there, os.W_OK):
        raise UserError(f"{option} {path}: may not write to {there}. Choose another folder.")


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same existing file, through links, too."""
    try:
        return one.samefile(other)
    except OSError:
        return False
