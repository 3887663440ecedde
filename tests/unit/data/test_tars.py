"""Tars are read to the marker at their end; links, odd members and damage are what they are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.readers.open import open_rows


def encoded(color: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), color).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded("red")


def add(tar: tarfile.TarFile, name: str, content: bytes, **header: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in header.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def row(number: int, **more: Any) -> bytes:
    return json.dumps({"question": f"q{number}", "answer": f"a{number}", **more}).encode()


def shard(path: Path, count: int = 10) -> list[int]:
    """A shard of so many samples; the offset of each sample's first header."""
    offsets = []
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            offsets.append(tar.offset)  # type: ignore[attr-defined]
            add(tar, f"{number:03d}.png", PNG)
            add(tar, f"{number:03d}.json", row(number))
    return offsets


def opened(path: Path) -> list[Conversation]:
    return list(open_conversations(str(path)))


def streamed(path: Path) -> list[Conversation]:
    rows = ConversationRows(open_conversations(str(path), stream_seed=1))
    return [one for row in rows for one in row]


def colors(conversation: Conversation) -> list[Any]:
    return [load_image(ref, "x").getpixel((4, 4)) for ref in conversation.images]


WAYS = [opened, streamed]
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize("read", WAYS)
def test_a_changed_header_byte_is_named_by_its_offset(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    offset = shard(path)[5]
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"rows.tar: damaged or cut at byte {offset:,}"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("more", [0, 512, 700])
def test_a_tar_cut_at_or_near_a_member_is_no_end(read: Any, more: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    offset = shard(path)[5]
    path.write_bytes(path.read_bytes()[: offset + more])
    with pytest.raises(UserError, match="damaged or cut at byte"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
def test_nothing_but_zeros_follows_the_end(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    shard(path, 2)
    content = path.read_bytes()
    path.write_bytes(content + bytes(100_000))
    assert len(read(path)) == 2
    path.write_bytes(content + content)  # cat a.tar b.tar: GNU tar, too, reads only the first
    with pytest.raises(UserError, match=f"at byte {len(content):,} .data after the end marker"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
def test_links_of_gnu_tar(read: Any, tmp_path: Path) -> None:
    """GNU tar stores the second name of a file as a link, even where nobody meant one."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    (folder / "c.png").write_bytes(encoded("blue"))
    os.link(folder / "a.png", folder / "b.png")
    (folder / "d.png").symlink_to("c.png")
    (folder / "0.png").symlink_to("./d.png")  # leads to a later link
    names = [f"{name}.{end}" for name in "0abcd" for end in ("json", "png")]
    for name in "0abcd":
        (folder / f"{name}.json").write_bytes(row(0))
    path = tmp_path / "rows.tar"
    subprocess.run(["tar", "cf", path, *names], cwd=folder, check=True)
    assert [colors(one) for one in read(path)] == [[BLUE], [RED], [RED], [BLUE], [BLUE]]
    (file,) = open_rows(str(path)).files
    file.write([0, 4], tmp_path / "some.tar")
    assert [colors(one) for one in read(tmp_path / "some.tar")] == [[BLUE], [BLUE]]


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "a link out": ({"type": tarfile.SYMTYPE, "linkname": "../../etc/passwd"}, "a link to '../"),
    "an absolute link": ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link to '/etc"),
    "a hard link out": ({"type": tarfile.LNKTYPE, "linkname": "none.png"}, "a link to 'none"),
    "a link to itself": ({"type": tarfile.SYMTYPE, "linkname": "0.jpg"}, "a link to '0.jpg'"),
    "a pipe": ({"type": tarfile.FIFOTYPE}, "neither a file nor a link"),
    "a device": ({"type": tarfile.CHRTYPE}, "neither a file nor a link"),
    "an unknown type": ({"type": b"Z"}, "neither a file nor a link"),
}


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("name", ODD)
def test_odd_members_are_refused_by_name(read: Any, name: str, tmp_path: Path) -> None:
    header, words = ODD[name]
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "0.json", row(0))
        add(tar, "0.jpg", b"", **header)
    with pytest.raises(UserError, match=f"rows.tar: 0.jpg: {words}"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
def test_a_sparse_member_of_terabytes(read: Any, tmp_path: Path) -> None:
    with (tmp_path / "0.png").open("wb") as file:
        file.truncate(1 << 42)
    path = tmp_path / "rows.tar"
    subprocess.run(["tar", "cSf", path, "0.png"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match="0.png: a sparse file"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("size", ["-512", "-10240", "9" * 17, "1" * 400])
def test_impossible_sizes(read: Any, size: str, tmp_path: Path) -> None:
    """A negative size would send the reader back to a header that it has read."""
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "0.json", row(0))
        add(tar, "0.png", PNG, pax_headers={"size": size})
        add(tar, "1.json", row(1))
    with pytest.raises(UserError, match=r"rows\.tar: (damaged|0.png)"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("names", [["0.png", "1.png", "0.json"], ["0.png", "0.png", "0.json"]])
def test_samples_in_pieces(read: Any, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            add(tar, name, row(0) if name.endswith("json") else PNG)
    with pytest.raises(UserError, match="its sample is in the tar a second time|keys 'images'"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
def test_pictures_are_found_by_what_they_are(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        for number, (ending, color) in enumerate(
            [("jfif", "blue"), ("JPG", "red"), ("pic", "red")]
        ):
            add(tar, f"{number}.{ending}", encoded(color, "JPEG"))
            add(tar, f"{number}.json", row(number))
    assert [len(one.images) for one in read(path)] == [1, 1, 1]


@pytest.mark.parametrize("read", WAYS)
def test_the_json_of_a_sample_names_its_pictures(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"

    def write(*names: str) -> None:
        with tarfile.open(path, "w") as tar:
            add(tar, "0.a.png", PNG)
            add(tar, "0.b.png", encoded("blue"))
            add(tar, "0.json", row(0, images=list(names)))

    write("x/0.b.png", "x/0.a.png")
    assert [colors(one) for one in read(path)] == [[BLUE, RED]]
    write("1.png", "2.png")  # other names: the sample's own order
    assert [colors(one) for one in read(path)] == [[RED, BLUE]]
    write("1.png")
    with pytest.raises(UserError, match="names 1 image.s., but 2 are in the sample"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_called_so(read: Any, mode: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    with tarfile.open(path, f"w:{mode}") as tar:
        add(tar, "0.json", row(0))
    with pytest.raises(UserError, match=f"compressed by {mode[:2]}.*Unpack it first"):
        read(path)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("mp4", b"\0\0\0\x18ftypmp42\0\0\0\0"),
        ("wav", b"RIFF\x24\0\0\0WAVEfmt "),
        ("npy", b"\x93NUMPY\x01\0\xff"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_members_that_no_row_reads(read: Any, ending: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, f"0.{ending}", content)
        add(tar, "0.json", row(0))
    with pytest.raises(UserError, match=f"rows.tar: sample 1: .*'{ending}'"):
        read(path)
