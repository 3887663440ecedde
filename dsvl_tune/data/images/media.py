"""What bytes are, and what a name promises: a picture, a clip, a sound."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Media = Literal["picture", "clip", "sound"]


class Signature(NamedTuple):
    """How files of a format begin.

    Attributes:
        pattern: matches at the first byte.
        name: of the format.
        media: what it holds.
        is_read: whether `load_image` reads it.
    """

    pattern: re.Pattern[bytes]
    name: str
    media: Media
    is_read: bool


def _begins(pattern: bytes, name: str, media: Media, is_read: bool = False) -> Signature:
    return Signature(re.compile(pattern, re.DOTALL), name, media, is_read)


SIGNATURES = (
    _begins(rb"\x89PNG\r\n\x1a\n", "PNG", "picture", True),
    _begins(rb"\xff\xd8\xff", "JPEG", "picture", True),
    _begins(rb"GIF8[79]a", "GIF", "picture", True),
    _begins(rb"RIFF....WEBP", "WEBP", "picture", True),
    _begins(rb"BM....\0\0\0\0", "BMP", "picture", True),
    _begins(rb"II\*\0|MM\0\*", "TIFF", "picture", True),
    _begins(rb"....ftypavi[fs]", "AVIF", "picture", True),
    _begins(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000", "picture", True),
    _begins(rb"P[1-6][\s#][\s\d#]", "PPM", "picture", True),
    _begins(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC", "picture"),
    _begins(rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", "picture"),
    _begins(rb"8BPS", "PSD", "picture"),
    _begins(rb"\0\0\x01\0[\x01-\x40]\0", "ICO", "picture"),
    _begins(rb"v/1\x01", "OpenEXR", "picture"),
    _begins(rb"DDS ", "DDS", "picture"),
    _begins(rb".{128}DICM", "DICOM", "picture"),
    _begins(
        rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,200}-->\s*)?<svg", "SVG", "picture"
    ),
    _begins(rb"%PDF-", "PDF", "picture"),
    _begins(rb"....ftypM4[AB]", "M4A", "sound"),
    _begins(rb"....ftyp", "MP4", "clip"),
    _begins(rb"\x1aE\xdf\xa3", "Matroska", "clip"),
    _begins(rb"RIFF....AVI ", "AVI", "clip"),
    _begins(rb"\0\0\x01[\xb3\xba]", "MPEG", "clip"),
    _begins(rb"FLV\x01", "FLV", "clip"),
    _begins(rb"0&\xb2u\x8ef\xcf\x11", "ASF", "clip"),
    _begins(rb"RIFF....WAVE", "WAV", "sound"),
    _begins(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "MP3", "sound"),
    _begins(rb"OggS", "Ogg", "sound"),
    _begins(rb"fLaC", "FLAC", "sound"),
    _begins(rb"FORM....AIF[FC]", "AIFF", "sound"),
    _begins(rb"#!AMR", "AMR", "sound"),
)
HEAD_BYTES = 512
"""Bytes of a file that `signature` looks at."""

ENDINGS: dict[Media, tuple[str, ...]] = {
    "picture": (
        *("jpg", "jpeg", "jfif", "jpe", "pjpeg", "png", "apng", "webp", "gif", "bmp", "dib"),
        *("tif", "tiff", "avif", "heic", "heif", "jxl", "jp2", "j2k", "jpx", "ppm", "pgm", "pbm"),
        *("pnm", "tga", "svg", "ico", "psd", "exr", "dcm", "dicom", "cr2", "nef", "dng"),
    ),
    "clip": (
        *("mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "wmv", "flv", "3gp", "ogv"),
        "gifv",
    ),
    "sound": (
        "wav",
        "mp3",
        "flac",
        "ogg",
        "oga",
        "opus",
        "m4a",
        "aac",
        "wma",
        "aif",
        "aiff",
        "amr",
    ),
}
"""Endings of file names, in lower case."""
_MEDIA_BY_ENDING = {ending: media for media, endings in ENDINGS.items() for ending in endings}


def signature(content: bytes) -> Signature | None:
    """The format of encoded media, from its first bytes.

    Args:
        content: the bytes, or at least the first `HEAD_BYTES` of them.

    Returns:
        Its format; None for bytes that are none of the known ones.
    """
    head = content[:HEAD_BYTES]
    return next((one for one in SIGNATURES if one.pattern.match(head)), None)


def named_media(name: str) -> Media | None:
    """What the ending of a file's name or of a URL's path promises.

    Args:
        name: may end in white space, as in a table that was typed.
    """
    if "://" in name:
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    return _MEDIA_BY_ENDING.get(name[-12:].strip().rpartition(".")[2].lower())
