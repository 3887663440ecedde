"""Download images once into a cache; only where a recipe allows it."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from dsvl_tune.core.cache_folder import cached
from dsvl_tune.core.errors import UserError

MAX_BYTES = 50_000_000
"""A longer response is refused."""
TIMEOUT_S = 30.0


def cached_picture(url: str, where: str) -> Path:
    """The file in the cache that holds an image.

    Args:
        url: of the image.
        where: row and image, for the error.

    Raises:
        UserError: it cannot be downloaded, or is too large.
    """
    name = hashlib.sha256(url.encode()).hexdigest()
    return cached("images", name, lambda path: fetch(url, where, path))


def fetch(url: str, where: str, path: Path) -> None:
    """Write the response of a URL to a file.

    Args:
        url: to read.
        where: row and image, for the error.
        path: to write.

    Raises:
        UserError: it cannot be downloaded, or is too large.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read(MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(
            f"{where}: cannot be downloaded ({error}). Save it below the images' root folder."
        ) from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{where}: more than {MAX_BYTES // 10**6} MB. Save a smaller one.")
    path.write_bytes(content)
