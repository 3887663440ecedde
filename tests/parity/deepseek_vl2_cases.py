"""The golden cases of DeepSeek-VL2 as conversations of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dsvl_tune.core.types import Conversation, ImageRef, Turn

GOLDEN = Path(__file__).parents[1] / "golden" / "deepseek_vl2"
SIZES = ("tiny", "small", "base")


def header(size: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / size / "conversations.json").read_text())
    return content


def cases(size: str, form: str | None = None) -> dict[str, dict[str, Any]]:
    found = header(size)["cases"]
    return {case["id"]: case for case in found if form in (None, case["form"])}


def conversation(size: str, case: dict[str, Any]) -> Conversation:
    pictures = GOLDEN / size / header(size)["pictures"] / "images"
    turns, system = [], None
    for message in case["messages"]:
        if message["role"] == "system":
            system = message["content"]
            continue
        images = [ImageRef(pictures / name, name) for name in message.get("images", ())]
        first, *rest = message["content"].split("<image>")
        parts: list[str | ImageRef] = [first]
        for image, text in zip(images, rest, strict=True):
            parts += [image, text]
        role = "user" if message["role"] == "<|User|>" else "assistant"
        if any(part != "" for part in parts):
            turns.append(Turn(role, tuple(parts)))  # type: ignore[arg-type]
    return Conversation(tuple(turns), case["id"], system)
