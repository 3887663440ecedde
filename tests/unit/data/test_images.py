"""Pictures before the family prepares them, and files that are no pictures."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.images import load as images
from dsvl_tune.data.images.load import image_size, load_image
from dsvl_tune.families.deepseek_vl.pixels import (
    ImageSettings,
    TowerPixels,
    normalize,
    pad_image,
    split_image,
)

HALF = (0.5, 0.5, 0.5)


def picture(width: int = 12, height: int = 8) -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def load(source: Path | bytes | Image.Image) -> Image.Image:
    return load_image(ImageRef(source, "pic"), "data.jsonl:7")


def test_path_bytes_and_picture_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture()))
    for source in (path, path.read_bytes(), picture()):
        np.testing.assert_array_equal(np.array(load(source)), np.array(picture()))


def test_exif_rotation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise (EXIF 2.3, tag Orientation)
    turned = load(encoded(picture(), exif=exif))
    np.testing.assert_array_equal(np.array(turned), np.rot90(np.array(picture()), k=-1))
    np.testing.assert_array_equal(np.array(load(turned)), np.array(turned))


def test_transparency_shows_the_color_under_it() -> None:
    image = Image.new("RGBA", (4, 4), (10, 200, 30, 0))
    assert load(encoded(image)).getpixel((0, 0)) == (10, 200, 30)


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    samples = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert [p[0] for p in np.array(load(encoded(Image.fromarray(samples))))[0]] == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_every_usual_mode_becomes_rgb(mode: str) -> None:
    image = picture().convert(mode)
    # Pillow 12.3 cannot read the YCbCr TIFF that it writes
    assert load(image if mode == "YCbCr" else encoded(image, "TIFF")).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an image"),
        (b"<html>not found</html>", "not an image"),
        (encoded(picture(300, 300))[:2000], "truncated"),
        (encoded(picture(300, 300), "JPEG")[:2000], "truncated"),
        (encoded(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"), "32 bits"),
    ],
)
def test_what_is_no_whole_picture_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load(path)
    assert "data.jsonl:7" in str(error.value) and str(path) in str(error.value)


def test_missing_empty_and_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.png")
    with pytest.raises(UserError, match="not an image"):
        load(tmp_path)
    with pytest.raises(UserError, match="0 x 5 px"):
        load(Image.new("RGB", (0, 5)))
    monkeypatch.setattr(images, "MAX_PIXELS", 95)
    with pytest.raises(UserError, match="12 x 8 px"):
        load(encoded(picture()))


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    import struct
    import zlib

    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(UserError, match="too large"):
        load(bytes(bomb))


def test_inputs_have_the_sizes_of_their_towers() -> None:
    towers = TowerPixels(24, HALF, HALF), TowerPixels(64, HALF, HALF)
    settings = ImageSettings(64, (9, 9, 9), *towers, tokens=4)
    inputs = split_image(pad_image(picture(), settings), settings)
    assert inputs["high_res_pixel_values"].dtype == torch.uint8
    inputs = normalize(inputs, settings)
    assert inputs["pixel_values"].shape == (1, 3, 24, 24)
    assert inputs["high_res_pixel_values"].shape == (1, 3, 64, 64)
    background = (9 / 255 - 0.5) / 0.5
    corner = inputs["high_res_pixel_values"][0, 0, 0, 0].item()
    assert corner == pytest.approx(background, abs=1e-6)


def test_the_size_is_that_of_the_upright_picture() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(picture(), exif=exif)
        assert image_size(ImageRef(content, "pic"), "x") == load(content).size
    for name in ("JPEG", "TIFF", "WEBP"):
        assert image_size(ImageRef(encoded(picture(), name), "pic"), "x") == (12, 8)
    assert image_size(ImageRef(picture(), "pic"), "x") == (12, 8)
    with pytest.raises(UserError, match=r"data\.jsonl:7: image pic: not an image"):
        image_size(ImageRef(b"no", "pic"), "data.jsonl:7")
