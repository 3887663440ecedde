"""Each format as its own documentation shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_shapes import DATA_URL, PNG, SHAPES

import dsvl_tune.datamodules
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import ALIASES, FORMATS, read_row
from dsvl_tune.data.images.load import load_image
from dsvl_tune.datamodules import InstructDataModule


def shape(conversation: Conversation) -> list[Any]:
    """(role, parts, weight), an image as "#" and its name's last part."""
    return [
        (
            turn.role[0],
            [
                f"#{Path(p.name).name}" if isinstance(p, ImageRef) else p
                for p in turn.parts
                if p != ""
            ],
            turn.weight,
        )
        for turn in conversation.turns
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_published_shape(name: str) -> None:
    format, row, expected = SHAPES[name]
    for asked in ("auto", format):
        conversation = read_row(
            row, "rows:1", ImageSource(Path("/data" if "swift messages" in name else "root")), asked
        )
        found = [
            (r, [p if not str(p).startswith("#sha256") else "#sha" for p in parts], w)
            for r, parts, w in shape(conversation)
        ]
        assert found == expected, asked
    assert conversation.system in (None, "S", "You identify birds.", "Be brief.")
    assert (conversation.system is None) == ("system" not in json.dumps(row, default=str).lower())


def test_every_format_has_a_published_shape() -> None:
    assert {format for format, _, _ in SHAPES.values()} == {*FORMATS, *ALIASES} - {"choices"}


@pytest.mark.parametrize(
    "source", [PNG.getvalue(), DATA_URL, {"bytes": PNG.getvalue(), "path": "gone.png"}]
)
def test_bytes_and_data_urls_are_one_picture(source: Any) -> None:
    row = {"question": "?", "answer": "!", "image": source}
    (ref,) = read_row(row, "x", ImageSource(Path("root"))).images
    assert load_image(ref, "x").getpixel((1, 1)) == (255, 0, 0)
    assert ref.content == PNG.getvalue()


@pytest.mark.parametrize(
    ("row", "answer", "references"),
    [
        ({"question": "?", "answers": ["b", " a ", "a", "c"]}, "a", ("b", "a", "a", "c")),
        ({"caption": ["one", "two"]}, "one", ("one", "two")),
        ({"question": "?", "answer": "a"}, "a", ()),
        ({"query": "?", "label": ["a"]}, "a", ()),
    ],
)
def test_every_accepted_answer_is_kept(
    row: dict[str, Any], answer: str, references: tuple[str, ...]
) -> None:
    """Repeated ones too: VQA accuracy counts how many of ten annotators gave an answer."""
    conversation = read_row({**row, "image": "a.png"}, "x", ImageSource(Path("root")))
    assert conversation.turns[-1].text == answer
    assert conversation.references == references
    assert conversation.accepted_answers == (references or (answer,))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([{"role": "User", "content": "<image_placeholder>?"}], "1 image placeholder.*0 image"),
        (
            {"query": "a", "response": "b", "history": [["a"]]},
            r"history\[0\].*expected a question and an answer",
        ),
        ({"query": "a", "response": None, "history": []}, "keys 'query', 'response'.*expected"),
        ({"query": "a", "response": 3}, "response: a number, expected text"),
        ({"question": "a", "answer": 3}, "answer: a number, expected text"),
        (
            {"question": "a", "answer": "b", "image": "x", "images": ["y"]},
            "both 'image' and 'images'",
        ),
        ({"question": "a", "answer": "b", "image": {"url": "x"}}, "image is dict, expected a path"),
        (
            {"question": "<image>", "answer": "b", "image": {"bytes": None, "path": None}},
            "image is empty",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "weight": -1}]},
            "weight: -1, expected a number",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "weight": float("nan")}]},
            "weight: nan, expected",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "weight": "1"}]},
            "weight: text, expected a number",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
        ({"caption": "a"}, "caption without an image"),
        (
            {"messages": [{"role": ["user"], "content": "x"}]},
            r"messages\[0\].role: a list, expected text",
        ),
        ({"messages": [None]}, r"messages\[0\]: no 'role' .found: null"),
        (
            {"question": "q", "choices": ["a", "b"], "answer": 1, "hint": 7},
            "hint: a number, expected text",
        ),
        (
            {"question": "q", "choices": ["a", "b"], "answer": 1, "subject": 7},
            "question_type: a number, expected text",
        ),
        ({"question": "q", "answer": "x", "image": [["a.png"]]}, "image is list, expected a path"),
        ([{"role": "User"}], r"conversation\[0\]: no 'content'"),
        ([], "a list of 0, expected a JSON object"),
        (None, "null, expected a JSON object"),
        ({}, "keys none, expected conversation"),
        ({"caption": [], "image": "a.png"}, r"keys 'caption' .empty.*expected"),
        (
            {"query": "a", "label": [], "image": "a.png"},
            r"keys 'query', 'label' .empty.*expected",
        ),
        (
            {"question": "a", "answers": [1], "image": "a.png"},
            "answers: a list of 1, expected text, or a list of texts",
        ),
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, "answer 2 of 2 choices"),
    ],
)
def test_rows_that_are_not_quite_of_their_format(row: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_row(row, "rows:1", ImageSource(Path("root")))


READY_MADE = {
    "ChartQADataModule": ("chartqa", "chartqa", "human"),
    "DocVQADataModule": ("answers", "docvqa", "handwritten"),
    "TextVQADataModule": ("answers", "textvqa", ""),
    "ScienceQADataModule": ("scienceqa", "scienceqa", "natural science"),
    "CaptionsDataModule": ("caption", "captions", ""),
}


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("name", READY_MADE)
def test_published_sets_are_a_format(name: str, tmp_path: Path, tiny_checkpoint: str) -> None:
    """A parquet file of the published layout, to batches; the old class gives the same rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    format, shape_name, question_type = READY_MADE[name]
    row = dict(SHAPES[shape_name][1])
    if isinstance(row["image"], bytes):
        row["image"] = {"bytes": row["image"], "path": None}
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist([row] * 3), path)
    options: dict[str, Any] = {
        "validation": None,
        "test": path,
        "validation_rows": 0,
        "checkpoint": tiny_checkpoint,
    }
    data = InstructDataModule(path, format=format, **options)  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match=f"{name} .*format: {format}"):
        old = getattr(dsvl_tune.datamodules, name)(path, **options)
    for one in (data, old):
        one.setup("fit")
    batches = list(data.train_dataloader())
    assert sum(len(batch.sources) for batch in batches) == 3
    found = {conversation.question_type for row in data.rows("test") for conversation in row}
    assert found == {question_type}
    assert list(old.rows("train")) == list(data.rows("train"))
