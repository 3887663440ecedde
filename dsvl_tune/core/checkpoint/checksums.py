"""SHA256SUMS: hashes of all files of a written checkpoint, for `sha256sum -c`.

It reveals a flipped bit among the weights. In a checkpoint without it, such a bit is a weight like
any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import SUMS, atomic_write, sha256

LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


def write_sums(folder: Path) -> None:
    """Hash every file of a folder and its subfolders into its SHA256SUMS."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    text = "".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    atomic_write(folder / SUMS, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_sums(path: Path) -> dict[str, str]:
    """File name, relative to the folder -> SHA-256 in hexadecimal.

    Raises:
        UserError: the file is missing or has a line of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: could not be read as a list of hashes ({error}).") from None
    sums = {}
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}, line {number}: expected a SHA-256, two spaces and a file name, found "
                f"{line!r}."
            )
        sums[match[2]] = match[1]
    return sums


def is_written_checkpoint(folder: Path) -> bool:
    """Whether a folder holds exactly the files that its SHA256SUMS lists.

    Such a folder is a checkpoint that was written here, and nothing was added to it since.
    """
    try:
        listed = set(read_sums(folder / SUMS))
    except UserError:
        return False
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return found == {SUMS, *listed}


def check_sums(
    folder: Path,
    sums: dict[str, str],
    listed_in: Path,
    *,
    file_hash: Callable[[Path], str] = sha256,
) -> None:
    """Compare files with their hashes.

    Args:
        folder: of the checkpoint.
        sums: file name, relative to `folder` -> SHA-256.
        listed_in: file that the hashes come from, for the message.
        file_hash: gives the SHA-256 of a file.

    Raises:
        UserError: a listed file is missing or has another hash.
    """
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{folder}: no {name} there, but {listed_in} lists it. Copy the checkpoint again."
            )
        found = file_hash(path)
        if found != expected:
            raise UserError(
                f"{path}: SHA-256 is {found}, {listed_in} expects {expected}. The file was damaged "
                "or changed: copy it again. If it was changed on purpose, put its new hash there."
            )


def read_own_sums(folder: Path) -> dict[str, str] | None:
    """The hashes that a folder's SHA256SUMS lists, by file name; None if it has none.

    Raises:
        UserError: the file has a line of another form.
    """
    path = folder / SUMS
    return read_sums(path) if path.is_file() else None


def check_own_sums(
    folder: Path,
    sums: dict[str, str] | None,
    *,
    weights: bool,
    file_hash: Callable[[Path], str] = sha256,
) -> None:
    """Compare the files of a folder with its own SHA256SUMS.

    Args:
        folder: of the checkpoint.
        sums: from `read_own_sums`; nothing is compared without.
        weights: whether to compare the safetensors files, or all the others.
        file_hash: gives the SHA-256 of a file.

    Raises:
        UserError: a file is missing, changed or not listed.
    """
    if sums is None:
        return
    path = folder / SUMS
    chosen = {name: sums[name] for name in sums if name.endswith(".safetensors") == weights}
    needed = {file.name for file in folder.glob("*.safetensors" if weights else "*.json")}
    if missing := sorted(needed - set(chosen)):
        raise UserError(
            f"{path}: does not list {missing[0]}, which is in the same folder. Was the list cut "
            "off?"
        )
    check_sums(folder, chosen, path, file_hash=file_hash)
