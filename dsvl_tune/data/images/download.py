"""Pictures on the network, fetched once into a cache; only where a recipe allows it."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from dsvl_tune.core.cache_folder import cached
from dsvl_tune.core.errors import UserError

MAX_BYTES = 50_000_000
"""A longer answer is refused."""
TIMEOUT_S = 30.0


def cached_picture(url: str, where: str) -> Path:
    """The file that holds the picture, in the cache.

    Raises:
        UserError: it cannot be fetched, or is too large.
    """
    return cached(
        "images", hashlib.sha256(url.encode()).hexdigest(), lambda path: fetch(url, where, path)
    )


def fetch(url: str, where: str, path: Path) -> None:
    """Write what the URL answers with."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(
            f"{where}: cannot be fetched ({error}). Save it below the images' root folder."
        ) from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{where}: more than {MAX_BYTES // 10**6} MB. Save a smaller one.")
    path.write_bytes(content)
