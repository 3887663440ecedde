"""HTML pages that need nothing else: styles, pictures and script are inside, nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
"""A page is `NAME.html`, and runs `NAME.js` if there is such a file."""
HEAD_BYTES = 2_000
"""Where the mark of a page is looked for."""


def render(template: str, *, generator: str, **values: Any) -> str:
    """Fill in a template; every value is escaped unless it is `Markup`.

    Args:
        template: File in `report/templates`.
        generator: Command that makes the page; marks it as one of ours, see `is_page`.
        **values: What the template shows.
    """
    script_file = TEMPLATES / Path(template).with_suffix(".js")
    script = script_file.read_text(encoding="utf-8") if script_file.is_file() else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"  # this script and no other
    )
    return (
        _environment()
        .get_template(template)
        .render(
            generator=generator,
            policy=policy,
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            **values,
        )
    )


def is_page(path: Path, generator: str) -> bool:
    """Whether a file is a page that a command made, which it may replace.

    Args:
        path: An existing file.
        generator: The command.
    """
    with path.open("rb") as file:
        return f'<meta name="generator" content="{generator}">'.encode() in file.read(HEAD_BYTES)


def picture_url(picture: Image.Image, longest_side: int | None = None) -> str:
    """Put a picture into a URL.

    Args:
        picture: In any mode.
        longest_side: In px; larger pictures are scaled down and compressed as JPEG. None keeps
            every pixel, as PNG.
    """
    buffer = BytesIO()
    if longest_side is None:
        picture.save(buffer, "PNG")
        return _data_url("png", buffer.getvalue())
    small = picture.convert("RGB")
    small.thumbnail((longest_side, longest_side))
    small.save(buffer, "JPEG", quality=85)
    return _data_url("jpeg", buffer.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("dsvl_tune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
