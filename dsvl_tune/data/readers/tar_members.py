"""The members of a tar, read strictly: to the end marker, links resolved inside the archive.

Python's tarfile stops without an error at a header that it cannot read, and at the end of a file
that was cut between two members. Here both are errors with the offset.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from posixpath import dirname, join, normpath
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.terminal import shorten

MAX_MEMBER_BYTES = 1 << 30
"""A larger member is refused. A sparse one may claim terabytes without having them."""
END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)
BLOCK_BYTES = 1 << 24
"""Bytes after the end marker that are looked at together."""
MAX_LINKS = 40
"""Links that lead to one another, as in Linux."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, EOFError)
"""What tarfile raises on damaged headers."""


class Target(NamedTuple):
    """Where the content of a linked file is.

    Attributes:
        start: its first byte in the archive.
        size: in bytes.
    """

    start: int
    size: int


Links = Mapping[int, Target]
"""Offset of a link's header -> the file that it leads to."""


def tar_members(file: Any, path: str) -> Iterator[tarfile.TarInfo]:
    """The headers of the files and links of a tar, in order; the file's content is not read.

    Hidden files and those that macOS adds (`._NAME`, `__MACOSX`) are left out, and folders are.

    Args:
        file: the archive, at its beginning; can be sought in.
        path: its name, for errors.

    Raises:
        UserError: it is not a tar, damaged, cut, or has a member that is neither a file nor a link.
    """
    tar = open_members(file, path)
    end = 0
    while (member := next_member(tar, path)) is not None:
        if tar.offset <= end or member.size < 0:
            raise damaged(path, end, "the size of a member is impossible")
        end = tar.offset
        # Else they pile up: the advice of tarfile's documentation for long archives.
        tar.members.clear()  # type: ignore[attr-defined]
        if is_wanted(member):
            check_member(member, path)
            yield member
    check_end(file, end, path)


def open_members(file: Any, path: str) -> tarfile.TarFile:
    """The archive, its first header read.

    Raises:
        UserError: it is not an uncompressed tar.
    """
    try:
        head = file.read(6)
        file.seek(0)
        for magic, name in COMPRESSED.items():
            if head.startswith(magic):
                raise UserError(f"{path}: a tar compressed by {name}. Unpack it first.")
        return tarfile.open(fileobj=file, mode="r:")
    except DAMAGE as error:
        raise UserError(
            f"{path}: cannot be read: not an uncompressed tar ({error}). "
            "Check the path; unpack a compressed tar first."
        ) from None


def next_member(tar: tarfile.TarFile, path: str) -> tarfile.TarInfo | None:
    """The next header.

    Raises:
        UserError: it is damaged, or the file ends before the content of the member before it.
    """
    try:
        return tar.next()
    except DAMAGE as error:
        reason = "the file ends before this member does" if is_cut(error) else str(error)
        raise damaged(path, tar.offset, reason) from None


def is_cut(error: BaseException) -> bool:
    """Whether tarfile's error says that the file is too short."""
    return "unexpected end" in str(error) or "truncated" in str(error)


def damaged(path: str, offset: int, reason: str) -> UserError:
    """The error for a damaged tar."""
    return UserError(
        f"{path}: damaged or cut at byte {offset:,} ({shorten(reason, 100)}). "
        "Copy or write the tar again."
    )


def is_wanted(member: tarfile.TarInfo) -> bool:
    """Whether it belongs to a sample: no folder, not hidden, not added by macOS."""
    folder, _, base = member.name.rpartition("/")
    return not (member.isdir() or base.startswith(".") or "__MACOSX" in folder.split("/"))


def check_member(member: tarfile.TarInfo, path: str) -> None:
    """Raise unless the member is a file that can be read, or a link."""
    where = f"{path}: {member.name[:200]}"
    if member.issparse():
        raise UserError(
            f"{where}: a sparse file, which can be larger than any disk. Write the tar without "
            "--sparse."
        )
    if not (member.isfile() or member.islnk() or member.issym()):
        raise UserError(
            f"{where}: neither a file nor a link (type {member.type!r}). Leave it out of the tar."
        )
    if member.isfile() and member.size > MAX_MEMBER_BYTES:
        raise UserError(
            f"{where}: {member.size:,} bytes, more than {MAX_MEMBER_BYTES:,}. Leave it out of the "
            "tar."
        )


def check_end(file: Any, offset: int, path: str) -> None:
    """Raise unless nothing but the end marker and zeros follows the last member.

    Args:
        file: the archive.
        offset: of the first byte after the last member.
        path: its name, for the error.
    """
    file.seek(offset)
    block = file.read(BLOCK_BYTES)
    if len(block) < tarfile.BLOCKSIZE:
        raise damaged(path, offset, "the end marker is missing")
    start = offset
    while block:
        if block.count(0) != len(block):
            found = start + len(block) - len(block.lstrip(b"\0"))
            is_header = found - offset < tarfile.BLOCKSIZE
            reason = "a member's header" if is_header else "data after the end marker"
            raise damaged(path, offset if is_header else found, reason)
        start += len(block)
        block = file.read(BLOCK_BYTES)


def read_file(file: Any, start: int, size: int, path: str) -> bytes:
    """Part of the archive.

    Raises:
        UserError: the archive is too short.
    """
    file.seek(start)
    content: bytes = file.read(size)
    if len(content) != size:
        raise damaged(path, start, "the file ends before this member does")
    return content


def read_member(file: Any, member: tarfile.TarInfo, path: str, links: Links) -> bytes:
    """The content of a file or link.

    Args:
        file: the archive.
        member: of it.
        path: its name, for errors.
        links: of the archive, if the member is one.
    """
    if member.isfile():
        return read_file(file, member.offset_data, member.size, path)
    return read_file(file, *links[member.offset], path)


def resolve_links(file: Any, path: str) -> Links:
    """Where every link of a tar leads; a symbolic one may lead to a later member.

    Raises:
        UserError: a link leads out of the archive, to nothing, or in a circle.
    """
    file.seek(0)
    by_name = {}
    links = []
    for member in tar_members(file, path):
        by_name[normpath(member.name)] = member
        if not member.isfile():
            links.append(member)
    return {link.offset: resolve(link, by_name, path) for link in links}


def resolve(link: tarfile.TarInfo, by_name: Mapping[str, tarfile.TarInfo], path: str) -> Target:
    """The file that a link leads to."""
    member: tarfile.TarInfo | None = link
    for _ in range(MAX_LINKS):
        assert member is not None
        # A hard link names a member, a symbolic one a path from its own folder.
        folder = dirname(member.name) if member.issym() else ""
        member = by_name.get(normpath(join(folder, member.linkname)))
        if member is None:
            break
        if member.isfile():
            return Target(member.offset_data, member.size)
    raise UserError(
        f"{path}: {link.name[:200]}: a link to {link.linkname[:200]!r}, which is no file in the "
        "tar. Write the tar with the files themselves (tar --dereference)."
    )


def without_links(
    content: bytes, offset: int, links: Links, read: Callable[[Target], bytes]
) -> bytes:
    """Part of a tar with the files themselves in place of its links.

    Args:
        content: whole members.
        offset: where they begin in the archive.
        links: of the archive.
        read: reads the content of a file that a link leads to.
    """
    parts = []
    with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
        end = 0
        while (member := tar.next()) is not None:
            target = links.get(offset + member.offset)
            if target is None:
                parts.append(content[end : tar.offset])
            else:
                data = read(target)
                header = tarfile.TarInfo(member.name)
                header.size, header.mtime = len(data), member.mtime
                padding = bytes(-len(data) % tarfile.BLOCKSIZE)
                parts += [header.tobuf(tarfile.PAX_FORMAT), data, padding]
            end = tar.offset
    return b"".join(parts)
