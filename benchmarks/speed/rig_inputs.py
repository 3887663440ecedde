"""Inputs of the benchmarks: random models of the published token geometry, and charts as files.

    python benchmarks/speed/rig_inputs.py FOLDER

writes a folder for each model of `rig_models.py` and for each data set, `charts.openai.jsonl` with
images: FOLDER/one, FOLDER/four and FOLDER/eight have so many questions per image, each a
conversation of its own. FOLDER/text has no images; its conversations are about as long, and half of
their tokens are supervised.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from PIL import Image
from rig_models import MODELS, write_checkpoint

from dsvl_tune.core.types import Conversation, ImageRef
from dsvl_tune.demo.charts import chart_row

SETS = {"one": 1, "four": 4, "eight": 8, "text": 0}
"""Data set -> questions per image."""
ENLARGED = 5
"""Generated charts are 128 to 144 px wide; 640 to 720 px cost about as much as a screenshot."""
CHARTS_LISTED, QUESTIONS_LISTED = 3, 8
"""Charts that a conversation without image lists, and questions on each."""


def square_charts(questions: int) -> Iterator[list[Conversation]]:
    """Endless square charts: for other shapes, transformers rounds where the original truncates."""
    kinds = ("upright", "lying", "grouped", "line", "pie")
    rows = (chart_row(seed, "train", kinds, questions) for seed in count())
    for row in rows:
        width, height = picture(row[0]).size
        if width == height and len(row) == questions:
            yield row


def picture(conversation: Conversation) -> Image.Image:
    """Return the image of a conversation."""
    (ref,) = conversation.images
    assert isinstance(ref.content, Image.Image)
    return ref.content


def write_charts(folder: Path, images: int, questions: int) -> None:
    """`charts.openai.jsonl`: the questions on an image stand together."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(islice(square_charts(questions), images)):
        name = f"images/{number:04d}.png"
        width, height = picture(row[0]).size
        picture(row[0]).resize(
            (width * ENLARGED, height * ENLARGED), Image.Resampling.BICUBIC
        ).save(folder / name)
        lines += [
            json.dumps({"messages": messages(conversation), "images": [name]})
            for conversation in row
        ]
    (folder / "charts.openai.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as OpenAI messages."""
    parts = [
        ["<image>" if isinstance(part, ImageRef) else part for part in turn.parts]
        for turn in conversation.turns
    ]
    return [
        {"role": turn.role, "content": "".join(text)}
        for turn, text in zip(conversation.turns, parts, strict=True)
    ]


def write_texts(folder: Path, rows: int) -> None:
    """`charts.openai.jsonl` without images: a list of questions, and the list with the answers."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = square_charts(QUESTIONS_LISTED)
    lines = []
    for _ in range(rows):
        pairs = [messages(one) for chart in islice(charts, CHARTS_LISTED) for one in chart]
        questions = [asked["content"].removeprefix("<image>").strip() for asked, _ in pairs]
        answers = [
            f"{question} {answered['content']}"
            for question, (_, answered) in zip(questions, pairs, strict=True)
        ]
        turns = [
            {"role": role, "content": "\n".join(listed)}
            for role, listed in (("user", questions), ("assistant", answers))
        ]
        lines.append(json.dumps({"messages": turns}))
    (folder / "charts.openai.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def chart_texts() -> list[str]:
    """What the tokenizers are trained on: questions and answers of 200 charts."""
    rows = islice(square_charts(4), 200)
    return [turn["content"] for row in rows for one in row for turn in messages(one)]


def write_model(folder: Path, name: str) -> None:
    """Write FOLDER/NAME, a model of `rig_models.MODELS`, unless it is there."""
    if not (folder / name / "config.json").exists():
        write_checkpoint(folder / name, name, chart_texts())


def write_set(folder: Path, name: str, rows: int) -> None:
    """Write FOLDER/NAME, a data set of `SETS` with so many conversations, unless it is there.

    Raises:
        SystemExit: the one that is there has another number of conversations.
    """
    file = folder / name / "charts.openai.jsonl"
    if not file.exists() and SETS[name]:
        write_charts(folder / name, rows // SETS[name], questions=SETS[name])
    elif not file.exists():
        write_texts(folder / name, rows)
    found = len(file.read_text(encoding="utf-8").splitlines())
    if found != rows:
        sys.exit(
            f"{file} has {found} conversations, two steps of this batch size have {rows}: give "
            "another FOLDER."
        )


if __name__ == "__main__":
    for each in MODELS:
        write_model(Path(sys.argv[1]), each)
    for each in SETS:
        write_set(Path(sys.argv[1]), each, rows=32)
