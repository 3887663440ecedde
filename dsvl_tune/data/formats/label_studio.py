"""Label Studio's JSON-MIN export, whose keys are the names that a project gave its fields.

Recognized by the keys that Label Studio adds. The image is found by its value, answers are
unwrapped, and the row is then read like any other: `question` and `answer`, or `caption`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.data.formats.image_refs import LABEL_STUDIO
from dsvl_tune.data.formats.unread import promised_media

ADDED_KEYS = ("annotation_id", "annotator", "lead_time")
"""Keys of every row of the export (label-studio-sdk, converter, `convert_to_json_min`)."""


def as_plain_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its image as `image` and texts in place of wrapped ones; others as they are.

    Args:
        row: of any format.
    """
    if not all(key in row for key in ADDED_KEYS[:2]):
        return row
    plain = {key: unwrapped(value) for key, value in row.items()}
    pictures = [key for key, value in plain.items() if is_picture(value)]
    if len(pictures) == 1 and "images" not in plain:
        plain["image"] = plain.pop(pictures[0])
    return plain


def is_picture(value: Any) -> bool:
    """Whether a field holds the place of a picture on the server, or its name."""
    return isinstance(value, str) and (
        value.startswith(LABEL_STUDIO) or promised_media(value) == "picture"
    )


def unwrapped(value: Any) -> Any:
    """The text of an answer: a list of one, or an object with `text` or `choices`."""
    for _ in range(3):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif isinstance(value, Mapping) and len(value.keys() & {"text", "choices"}) == 1:
            value = value.get("text", value.get("choices"))
    return value
