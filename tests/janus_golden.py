"""The golden files of Janus: cases as conversations, and changed copies of the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dsvl_tune.core.types import Conversation, ImageRef, Turn

FOLDER = Path(__file__).parent / "golden" / "janus"
CHECKPOINT = FOLDER / "checkpoint"
FACTS: dict[str, Any] = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = FACTS["cases"]
PICTURES: list[dict[str, Any]] = json.loads(
    (FOLDER / "pixels" / "pixels.json").read_text(encoding="utf-8")
)["images"]
TOLERANCE = 1e-4  # README.md of the golden files


def case_of(name: str) -> dict[str, Any]:
    return next(case for case in CASES if case["id"] == name)


def has_old_roles(case: dict[str, Any]) -> bool:
    return case["messages"][0]["role"] == "User"


def conversation(case: dict[str, Any]) -> Conversation:
    """The case with its placeholder strings as image parts."""
    turns = []
    for number, message in enumerate(case["messages"]):
        images = iter(message.get("images", ()))
        first, *rest = message["content"].split(FACTS["image_token"])
        parts: list[str | ImageRef] = [first]
        for text in rest:
            name = next(images)
            parts += [ImageRef(FOLDER / "images" / name, name), text]
        turns.append(Turn("assistant" if number % 2 else "user", tuple(parts)))
    system = None if case["system"]["kind"] == "default" else case["system"]["text"]
    return Conversation(tuple(turns), case["id"], system=system)


def copy_checkpoint(target: Path, **settings: dict[str, Any]) -> Path:
    """The golden checkpoint with changed keys in its JSON files, by file name without .json."""
    shutil.copytree(CHECKPOINT, target)
    for name, changes in settings.items():
        path = target / f"{name}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return target
