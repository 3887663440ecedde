"""Where rows and images come from: files of JSON, and the references to images in them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dsvl_tune.data.images import load_image
from dsvl_tune.schema import Conversation, ImageRef, UserError


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(origin, row) of a JSON list, or of a JSONL file with a row a line. Which of them is seen by its first character.

    Raises:
        UserError: no such file, not UTF-8, or not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Expected JSON or JSONL in UTF-8.") from None
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path))
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, start=1))
        return
    # Not splitlines: JSON strings may hold other line separators than the newline.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", parse_json(line, f"{path}:{number}")


def parse_json(text: str, where: str) -> Any:
    """The value, or an error that says where it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error}). Expected a list of rows (JSON) or one complete row a line (JSONL)."
        ) from None


def image_ref(source: str, root: Path, where: str) -> ImageRef:
    """The image that a row names: a file below `root`, or a data: URL with the encoded picture in it.

    Raises:
        UserError: another kind of URL, a path that leaves `root` (links followed), or a damaged data: URL.
    """
    if source.startswith("data:"):
        header, _, content = source.partition(",")
        try:
            picture = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise UserError(f"{where}: the image's data: URL ({header}) is not base64 ({error}).") from None
        return ImageRef(picture, name=f"sha256:{hashlib.sha256(picture).hexdigest()}")
    if "://" in source:
        raise UserError(f"{where}: image {source}: nothing is fetched over the network. Save it below {root}.")
    path, home = (root / source).resolve(), root.resolve()
    if not path.is_relative_to(home):
        raise UserError(
            f"{where}: image {source}: outside the images' root folder {root}. Move it there, or set images_root."
        )
    return ImageRef(path, name=str(path))


def verify_images(conversations: Iterable[Conversation]) -> None:
    """Decode every distinct image once, on all cores.

    Raises:
        UserError: as `load_image`, for the first bad image.
    """
    images: dict[str, tuple[ImageRef, str]] = {}
    for conversation in conversations:
        for ref in conversation.images:
            images.setdefault(ref.name, (ref, conversation.origin))
    if not images:
        return
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda found: load_image(*found).size, images.values())
        try:
            for _ in tqdm(decoded, total=len(images), desc="checking images", unit="image", leave=False):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the rest is not waited for
