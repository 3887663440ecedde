"""Malicious or carelessly copied files and references: refused with a message, or read right."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref
from dsvl_tune.data.images import download
from dsvl_tune.data.images.load import load_image

NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, data: bytes, *extra: bytes) -> bytes:
    """A PNG of one bit a pixel with whatever header and data are given."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def frames(kind: str) -> bytes:
    return encoded(NOISE, kind, save_all=True, append_images=[NOISE.rotate(90), NOISE.rotate(180)])


PNG, JPEG = encoded(NOISE, "PNG"), encoded(NOISE, "JPEG")
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an image"),
    "one byte": (b"\x89", "not an image"),
    "zeros": (bytes(10_000), "not an image"),
    "HTML of a failed download": (b"<!DOCTYPE html><title>404</title>", "not an image"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not an image",
    ),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>', "not an image"),
    "PDF": (b"%PDF-1.7\n1 0 obj\n", "not an image"),
    "EPS, which runs a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "not an image",
    ),
    "PSD": (
        b"8BPS\x00\x01" + bytes(6) + b"\x00\x03" + struct.pack(">IIHH", 9, 9, 8, 3) + bytes(20),
        "not an image",
    ),
    "an executable": (b"\x7fELF" + bytes(60), "not an image"),
    "a zip": (b"PK\x03\x04" + bytes(60), "not an image"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'x'\ntR.", "not an image"),
    "PNG, half": (PNG[: len(PNG) // 2], "truncated"),
    "PNG, header alone": (PNG[:33], "not an image|damaged"),
    "PNG, signature alone": (PNG[:8], "not an image|damaged"),
    "PNG, a bit flipped in its header": (flipped(PNG, 18), "not an image|damaged"),
    "PNG, zero wide": (png(0, 9, zlib.compress(b"")), "not an image|0 x 9"),
    "PNG, data that is not deflate": (png(64, 64, b"xxxx"), "damaged or truncated"),
    "PNG bomb of 3.6 thousand million pixels": (png(60_000, 60_000, b""), "too large"),
    "PNG bomb of 100 million pixels": (
        png(10_000, 10_000, zlib.compress(bytes(10_000))),
        "million pixels",
    ),
    "PNG of 2^31 rows": (png(1, 2**31 - 1, b""), "too large|not an image"),
    "PNG with a bomb of text": (
        png(8, 8, b"", chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9))),
        "not an image|damaged",
    ),
    "JPEG, half": (JPEG[: len(JPEG) // 2], "truncated"),
    "JPEG, first bytes": (JPEG[:20], "not an image|damaged"),
    "JPEG, start and end alone": (b"\xff\xd8\xff\xd9", "not an image|damaged"),
    "GIF, half": (encoded(NOISE, "GIF")[:900], "damaged or truncated"),
    "BMP, half": (encoded(NOISE, "BMP")[:900], "damaged or truncated"),
    "BMP, huge": (
        b"BM"
        + struct.pack(
            "<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0
        ),
        "large",
    ),
    "TIFF, half": (encoded(NOISE, "TIFF")[:900], "not an image|damaged"),
    "TIFF of several pages": (frames("TIFF"), "3 images in one TIFF"),
    "TIFF of 32-bit floats": (
        encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"),
        "32 bits",
    ),
    "TIFF of 32-bit integers": (
        encoded(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"),
        "32 bits",
    ),
    "WebP, half": (encoded(NOISE, "WEBP")[:300], "not an image|damaged"),
    "JPEG 2000, half": (encoded(NOISE, "JPEG2000")[:900], "not an image|damaged"),
    "PPM without pixels": (b"P6 80 60 255\n", "damaged or truncated"),
    "PPM that promises a petabyte": (b"P6 99999999 99999999 255\n", "too large"),
    "an animated GIF": (frames("GIF"), "3 images in one GIF"),
    "an animated PNG": (frames("PNG"), "3 images in one PNG"),
    "an animated WebP": (frames("WEBP"), "3 images in one WEBP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_image(image_ref("it.png", ImageSource(tmp_path), "rows:3"), "rows:3")
    assert str(error.value).startswith(f"rows:3: image {path}")


def gray(samples: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), samples, np.uint16))


def adobe_cmyk() -> bytes:
    """A JPEG of four inks as Adobe writes it, inverted; Pillow writes the same marker."""
    return encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)


READ: dict[str, tuple[bytes, tuple[int, int, int], int]] = {
    "16-bit gray PNG": (encoded(gray(32896), "PNG"), (128, 128, 128), 0),
    "16-bit gray TIFF": (encoded(gray(65535), "TIFF"), (255, 255, 255), 0),
    "CMYK JPEG": (adobe_cmyk(), (255, 0, 0), 6),
    "CMYK TIFF": (encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), 0),
    "palette with transparency": (
        encoded(Image.new("P", (4, 4), 7), "PNG", transparency=7),
        Image.new("P", (1, 1), 7).convert("RGB").getpixel((0, 0)),  # type: ignore[dict-item]
        0,
    ),
    "one bit": (encoded(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255), 0),
    "still GIF": (encoded(Image.new("RGB", (4, 4), (255, 0, 0)), "GIF"), (255, 0, 0), 0),
    "a broken color profile": (
        encoded(Image.new("RGB", (4, 4), (9, 1, 1)), "PNG", icc_profile=b"x"),
        (9, 1, 1),
        0,
    ),
    "rubbish after the end": (
        encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG") + b"x" * 999,
        (1, 2, 3),
        0,
    ),
    "broken EXIF": (
        encoded(Image.new("RGB", (8, 8), (9, 9, 9)), "JPEG", exif=b"Exif\0\0II*\0\xff"),
        (9, 9, 9),
        2,
    ),
    "a camera's MPO": (
        encoded(
            Image.new("RGB", (16, 16), (255, 0, 0)), "MPO", save_all=True, append_images=[NOISE]
        ),
        (255, 0, 0),
        4,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_read_right(name: str) -> None:
    content, color, tolerance = READ[name]
    picture = load_image(image_ref(content, ImageSource(Path("root")), "rows:3"), "rows:3")
    assert picture.mode == "RGB"
    np.testing.assert_allclose(np.array(picture)[2, 2], color, atol=tolerance)


def link_out(root: Path) -> str:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    return "link.png"


def folder_link_out(root: Path) -> str:
    (root / "folder").symlink_to(root.parent)
    return "folder/secret.png"


def link_to_itself(root: Path) -> str:
    (root / "loop.png").symlink_to(root / "loop.png")
    return "loop.png"


def pipe(root: Path) -> str:
    os.mkfifo(root / "pipe.png")
    return "pipe.png"


def folder(root: Path) -> str:
    (root / "a.png").mkdir()
    return "a.png"


REFERENCES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link out of the root": (link_out, "outside the images' root"),
    "a folder that is a link out": (folder_link_out, "outside the images' root"),
    "a link to itself": (link_to_itself, "not a path|not an image|no such file"),
    "a pipe, which would be waited for": (pipe, "not a file"),
    "a folder": (folder, "not a file"),
    "a device": (lambda root: "/dev/zero", "outside the images' root"),
    "dots": (lambda root: "x/../../secret.png", "outside the images' root"),
    "the home folder": (lambda root: "~/.ssh/id_rsa", "no such file"),
    "a NUL": (lambda root: "a\0.png", "not a path"),
    "a name of 5000 letters": (lambda root: "a" * 5000, "not a path|not an image"),
    "a missing file": (lambda root: "none.png", "no such file"),
    "http": (lambda root: "http://127.0.0.1:9/a.png", "nothing is fetched.*allow_urls"),
    "https": (lambda root: "https://127.0.0.1/a.png", "nothing is fetched.*allow_urls"),
    "a file URL": (lambda root: "file:///etc/passwd", "nothing is fetched"),
    "ftp": (lambda root: "ftp://127.0.0.1/a.png", "nothing is fetched"),
    "a data: URL that is not base64": (lambda root: "data:image/png;base64,?", "not base64"),
    "a data: URL in another encoding": (lambda root: "data:image/svg+xml,<svg/>", "not base64"),
    "a data: URL of rubbish": (
        lambda root: "data:image/png;base64," + base64.b64encode(b"x").decode(),
        "not an image",
    ),
    "nothing": (lambda root: "", "image is empty"),
    "a number": (lambda root: 7, "image is int"),
    "a list": (lambda root: ["a.png"], "image is list"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_references_that_lead_astray(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    NOISE.save(tmp_path / "secret.png")
    make, words = REFERENCES[name]
    with pytest.raises(UserError, match=words):
        load_image(image_ref(make(root), ImageSource(root), "rows:3"), "rows:3")


class Trouble(http.server.BaseHTTPRequestHandler):
    """A server that answers in a bad way, which the path names."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        what = self.path.strip("/")
        if what.startswith("a%20b"):
            self.reply(PNG)
        elif what == "cut":
            self.reply(PNG[: len(PNG) // 2], length=len(PNG))
        elif what == "cut_without_length":
            self.reply(PNG[: len(PNG) // 2], length=None)
        elif what == "words":
            self.reply(b"<html>log in</html>")
        elif what == "garbage":
            self.wfile.write(b"\x00\xff no status line\r\n\r\n")
        elif what == "slow":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for byte in PNG:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
        elif what == "slow_header":
            with contextlib.suppress(OSError):
                for byte in b"HTTP/1.0 200 OK\r\nX: " + bytes(1000):
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
        else:
            self.send_response(302)
            self.send_header("Location", f"http://{what}")
            self.end_headers()

    def reply(self, content: bytes, length: int | None = -1) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(len(content) if length < 0 else length))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of that server, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "DEADLINE_S", 1.0)
    serve = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trouble)
    threading.Thread(target=serve.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serve.server_port}"
    serve.shutdown()


def fetched(url: str) -> Image.Image:
    return load_image(
        image_ref(url, ImageSource(Path("root"), allow_urls=True), "rows:3"), "rows:3"
    )


DOWNLOADS = {
    "cut": "bytes came",
    "cut_without_length": "damaged or truncated",
    "words": "not an image",
    "garbage": "cannot be downloaded",
    "slow": "not done after 1 s",
    "slow_header": "not done after 1 s",
    "127.0.0.1:9/a.png": "redirected to 127.0.0.1, an address in a private network",
    "localhost/a.png": "redirected to localhost",
    "10.1.2.3/a.png": "redirected to 10.1.2.3",
    "192.168.0.1/a.png": "redirected to 192.168.0.1",
    "169.254.169.254/latest/meta-data": "redirected to 169.254.169.254",
    "[::1]/a.png": "redirected to ::1",
    "[::ffff:127.0.0.1]/a.png": "redirected to ::ffff:127.0.0.1",
    "2130706433/a.png": "redirected to 2130706433",
}


@pytest.mark.parametrize("path", DOWNLOADS)
def test_bad_downloads(path: str, trouble: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=DOWNLOADS[path].replace("[", r"\[")) as error:
        fetched(f"{trouble}/{path}")
    assert str(error.value).startswith("rows:3: image")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_a_url_with_a_space(trouble: str) -> None:
    assert fetched(f"{trouble}/a b.png").tobytes() == NOISE.tobytes()
    assert fetched(f"{trouble}/a%20b.png").tobytes() == NOISE.tobytes()


@pytest.mark.parametrize("url", ["http://169.254.169.254/x", "http://0.0.0.0/x", "http:///x"])
def test_urls_of_no_server(url: str, trouble: str) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetched(url)


def test_without_a_cache_pictures_are_downloaded_every_time(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fetched(f"{trouble}/a b.png").size == NOISE.size


@pytest.mark.parametrize(
    ("file", "named"),
    [("A.PNG", "a.png"), ("cafe\u0301.png", "caf\u00e9.png"), ("a.png", "a.png ")],
)
def test_a_name_that_looks_the_same(file: str, named: str, tmp_path: Path) -> None:
    """Other case, accents composed in another way (macOS), a blank at the end of a cell."""
    (tmp_path / file).write_bytes(PNG)
    with pytest.raises(UserError, match=f"no such file. Did you mean {re.escape(ascii(file))}"):
        load_image(image_ref(named, ImageSource(tmp_path), "rows:3"), "rows:3")


def test_there_are_forty_kinds_and_more() -> None:
    assert len(REFUSED) + len(REFERENCES) >= 60 and len(REFUSED) >= 39


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine with one picture."""
    (tmp_path / "web").mkdir()
    NOISE.save(tmp_path / "web" / "a.png")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    serve = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *given: Quiet(*given, directory=str(tmp_path / "web"))
    )
    threading.Thread(target=serve.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serve.server_port}"
    serve.shutdown()


def test_urls_are_fetched_once_where_that_is_allowed(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = ImageSource(tmp_path, allow_urls=True)
    ref = image_ref(f"{server}/a.png", home, "rows:3")
    assert load_image(ref, "rows:3").tobytes() == NOISE.tobytes()
    (tmp_path / "web" / "a.png").unlink()
    assert load_image(ref, "rows:3").tobytes() == NOISE.tobytes()
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_image(image_ref(f"{server}/b.png", home, "rows:3"), "rows:3")
    with pytest.raises(UserError, match="nothing is fetched"):
        image_ref("file:///etc/passwd", home, "rows:3")
    assert not list((tmp_path / "cache").rglob("*.partial"))
