r"""Tags that stand for a picture, clip or sound in a text: read or refused, never learned as text.

A backslash in front of a tag makes it plain text: `\<image>` is learned as `<image>`.
"""

from __future__ import annotations

import re

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref, is_media_file

PLACEHOLDER = "<image>"
"""Stands in a text for the next of the images that the row lists."""

ContentPart = str | ImageRef | int | None
"""Text, an image, the number from 1 of one of the images that the row lists, or None: a
placeholder for the next of them."""

_MEDIA = "image|img|picture|video|audio|speech|sound"
TAG = re.compile(
    r"(?P<escape>\\?)(?P<tag>"
    r"<img>(?P<path>[^<>]*)</img>"
    r"|<\|?image[ _-]?(?P<number>[1-9]\d{0,2})\|?>"
    rf"|<({_MEDIA})s?([ _-]?(placeholder|pad|token|here|start|end|context|\d+))?>"
    rf"|<\|({_MEDIA}|vision|media)\w*\|>"
    r"|<bbox>|<ref-object>|\[IMG\])",
    re.IGNORECASE,
)
"""How people and other tools write a picture, clip, sound or box into a text."""

EMBEDDED = re.compile(
    r"!\[[^\]]*\]\((?P<markdown>[^()\s]+)"
    r"|<(?:img|image|video|audio|source)\s[^>]*?\b(?:src|href)\s*=\s*[\"']?(?P<html>[^\"'>\s]+)",
    re.IGNORECASE,
)
"""A picture as Markdown or HTML shows it. That is text, unless the picture is at hand."""


def text_parts(
    text: str, where: str, allowed: ImageSource, placeholder: str = PLACEHOLDER
) -> list[ContentPart]:
    """A text with its tags read.

    Args:
        text: of a message.
        where: file, row and field, for errors.
        allowed: where images may come from.
        placeholder: stands for the next image that the row lists.

    Raises:
        UserError: a tag that is not read here, or the text is or shows a picture.
    """
    refuse_pictures(text, where, allowed)
    parts: list[ContentPart] = [""]
    end = 0
    for found in TAG.finditer(text):
        parts[-1] = f"{parts[-1]}{text[end : found.start()]}"
        end = found.end()
        tag = found["tag"]
        if found["escape"]:
            parts[-1] = f"{parts[-1]}{tag}"
        elif tag == placeholder:
            parts += [None, ""]
        elif found["number"]:
            parts += [int(found["number"]), ""]
        elif found["path"] is not None:
            parts += [image_ref(found["path"], allowed, where), ""]
        else:
            raise UserError(
                f"{where}: {tag} in the text, and nothing is read there. Write {placeholder} where "
                f"an image is shown, or \\{tag} if the word itself is meant."
            )
    parts[-1] = f"{parts[-1]}{text[end:]}"
    return parts


def split_placeholders(text: str) -> list[ContentPart]:
    r"""The text with None for each `<image>`; other tags are text, and so is `\<image>`."""
    parts: list[ContentPart] = [""]
    for piece in re.split(r"(\\?<image>)", text):
        if piece == PLACEHOLDER:
            parts += [None, ""]
        else:
            parts[-1] = (
                f"{parts[-1]}{piece.removeprefix(chr(92)) if piece[1:] == PLACEHOLDER else piece}"
            )
    return parts


def plain_text(text: str, where: str, allowed: ImageSource) -> str:
    """A text that may not show an image, e.g. an accepted answer.

    Raises:
        UserError: it has a tag.
    """
    parts = text_parts(text, where, allowed)
    if len(parts) > 1:
        raise UserError(
            f"{where}: a tag of an image, but none is shown there. Write a backslash before the "
            "tag if the word itself is meant."
        )
    return str(parts[0])


def escape_tags(text: str) -> str:
    """The text in which no tag is read."""
    return TAG.sub(lambda found: rf"\{found['tag']}", text)


def refuse_pictures(text: str, where: str, allowed: ImageSource) -> None:
    """Raise if a text is a picture, or shows one that is at hand as Markdown or HTML would."""
    if text.startswith("data:") and ";base64," in text[:200]:
        raise UserError(
            f"{where}: the text is a data: URL. Put it under 'image', or into a part of type "
            "image_url."
        )
    for found in EMBEDDED.finditer(text):
        target = found["markdown"] or found["html"]
        if target.startswith("data:") or is_media_file(target, allowed):
            raise UserError(
                f"{where}: the text shows {target[:80]!r}, and no image is read there. List it "
                f"under 'images' with {PLACEHOLDER} in its place."
            )
