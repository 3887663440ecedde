"""The images of held-out questions, small enough for a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.images.load import load_image
from dsvl_tune.report.pages import picture_url

LONGEST_SIDE = 480
"""In px: a chart's labels can be read."""


def pictures_of(
    rows: Iterable[list[Conversation]], sources: Collection[str]
) -> dict[str, list[str]]:
    """Put the images of some rows into URLs.

    Args:
        rows: Rows that hold the conversations.
        sources: Of the conversations to show.

    Returns:
        The URLs of each conversation's images in reading order, by its source.

    Raises:
        UserError: An image cannot be read any more.
    """
    pictures: dict[str, list[str]] = {}
    for row in rows:
        for conversation in row:
            source = conversation.source
            if source in sources and source not in pictures:
                images = [load_image(ref, source) for ref in conversation.images]
                pictures[source] = [picture_url(image, LONGEST_SIDE) for image in images]
        if len(pictures) == len(sources):
            break
    return pictures
