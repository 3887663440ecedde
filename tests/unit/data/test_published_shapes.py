"""Each format as its own documentation shows it (shapes and keys; the words are ours)."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import dsvl_tune.datamodules
from dsvl_tune.data.formats import FORMATS, Format, read_row
from dsvl_tune.data.images import load_image
from dsvl_tune.data.references import Home
from dsvl_tune.schema import Conversation, ImageRef, UserError

PNG = io.BytesIO()
Image.new("RGB", (3, 3), "red").save(PNG, "PNG")
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG.getvalue()).decode()


def shape(conversation: Conversation) -> list[Any]:
    """(role, parts, weight), an image as "#" and its name's last part."""
    return [
        (
            turn.role[0],
            [f"#{Path(p.name).name}" if isinstance(p, ImageRef) else p for p in turn.parts if p != ""],
            turn.weight,
        )
        for turn in conversation.turns
    ]


SHAPES: dict[str, tuple[Format, Any, list[Any]]] = {
    # OpenAI, vision fine-tuning guide: a part list with an image URL beside plain strings
    "openai": (
        "openai",
        {
            "messages": [
                {"role": "system", "content": "You identify birds."},
                {"role": "user", "content": "What bird is this?"},
                {"role": "user_image", "content": [{"type": "image_url", "image_url": {"url": DATA_URL}}]},
                {"role": "assistant", "content": "A kite", "weight": 0},
            ]
        },
        [],
    ),
    # LLaVA, docs/Finetune_Custom_Data.md
    "llava": (
        "llava",
        {
            "id": "99-07",
            "image": "part-0/9.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWrite a prompt."},
                {"from": "gpt", "value": "A room"},
            ],
        },
        [("u", ["#9.jpg", "\nWrite a prompt."], 1.0), ("a", ["A room"], 1.0)],
    ),
    # ShareGPT as LLaMA-Factory's data/README.md has it for images
    "sharegpt": (
        "llava",
        {
            "conversations": [{"from": "human", "value": "<image>Who?"}, {"from": "gpt", "value": "They."}],
            "images": ["1.jpg"],
            "system": "Be brief.",
        },
        [("u", ["#1.jpg", "Who?"], 1.0), ("a", ["They."], 1.0)],
    ),
    # ms-swift, docs/Customization/Custom-dataset: standard form, with a reply that is not learnt
    "swift messages": (
        "openai",
        {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "<image><image>Differ?"},
                {"role": "assistant", "content": "First.", "loss": False},
                {"role": "user", "content": "So?"},
                {"role": "assistant", "content": "Yes.", "loss": True},
            ],
            "images": ["/data/x.jpg", "/data/y.png"],
        },
        [
            ("u", ["#x.jpg", "#y.png", "Differ?"], 1.0),
            ("a", ["First."], 0.0),
            ("u", ["So?"], 1.0),
            ("a", ["Yes."], 1.0),
        ],
    ),
    # ms-swift: query and response with a history
    "swift query": (
        "swift",
        {
            "system": "S",
            "query": "And?",
            "response": "No.",
            "history": [["<image>Is it?", "Yes."]],
            "images": ["x.jpg"],
        },
        [("u", ["#x.jpg", "Is it?"], 1.0), ("a", ["Yes."], 1.0), ("u", ["And?"], 1.0), ("a", ["No."], 1.0)],
    ),
    "swift query without tags": (
        "swift",
        {"query": "Same?", "response": "No.", "images": [{"bytes": PNG.getvalue(), "path": None}, {"path": "x.jpg"}]},
        [("u", ["#sha", "#x.jpg", "Same?"], 1.0), ("a", ["No."], 1.0)],
    ),
    # DeepSeek-VL, README: several images, each with its caption
    "deepseek": (
        "deepseek",
        [
            {
                "role": "User",
                "content": "<image_placeholder>A dog wearing nothing, <image_placeholder>a dog with a hat. Next?",
                "images": ["images/dog_a.png", "images/dog_b.png"],
            },
            {"role": "Assistant", "content": "A crown."},
        ],
        [
            ("u", ["#dog_a.png", "A dog wearing nothing, ", "#dog_b.png", "a dog with a hat. Next?"], 1.0),
            ("a", ["A crown."], 1.0),
        ],
    ),
    "question and answer": (
        "question_answer",
        {"question": "How many?", "answer": "2", "image": Image.open(io.BytesIO(PNG.getvalue()))},
        [("u", ["#sha", "How many?"], 1.0), ("a", ["2"], 1.0)],
    ),
    "caption": (
        "caption",
        {"caption": "A dog", "image": PNG.getvalue()},
        [("u", ["#sha"], 1.0), ("a", ["A dog"], 1.0)],
    ),
    # HuggingFaceM4/ChartQA
    "chartqa": (
        "chartqa",
        {
            "image": {"bytes": PNG.getvalue(), "path": None},
            "query": "How many?",
            "label": ["14"],
            "human_or_machine": 0,
        },
        [("u", ["#sha", "How many?"], 1.0), ("a", ["14"], 1.0)],
    ),
    # ChartQA's own files
    "chartqa files": (
        "chartqa",
        {"imgname": "41.png", "query": "How many?", "label": "14"},
        [("u", ["#41.png", "How many?"], 1.0), ("a", ["14"], 1.0)],
    ),
    "docvqa": (
        "answers",
        {
            "questionId": "337",
            "question": "What is the date?",
            "question_types": ["handwritten", "form"],
            "image": {"bytes": PNG.getvalue(), "path": "x.png"},
            "docId": 279,
            "answers": ["1/8/93"],
        },
        [("u", ["#sha", "What is the date?"], 1.0), ("a", ["1/8/93"], 1.0)],
    ),
    "textvqa": (
        "answers",
        {
            "image_id": "003",
            "question_id": 34602,
            "question": "what brand?",
            "image": PNG.getvalue(),
            "answers": ["nokia", "nous", "nous", "dakota", "nous", "toshiba", "nous", "nous", "nokia", "dakota"],
            "ocr_tokens": ["nous"],
        },
        [("u", ["#sha", "what brand?"], 1.0), ("a", ["nous"], 1.0)],
    ),
    # derek-thomas/ScienceQA
    "scienceqa": (
        "scienceqa",
        {
            "image": None,
            "question": "Which is a liquid?",
            "choices": ["a rock", "tea"],
            "answer": 1,
            "hint": "Think.",
            "subject": "natural science",
            "lecture": "",
            "solution": "",
        },
        [
            ("u", ["Think.\nWhich is a liquid?\nA. a rock\nB. tea\nAnswer with the letter of the choice."], 1.0),
            ("a", ["B"], 1.0),
        ],
    ),
    # nlphuji/flickr30k and COCO: several captions a picture
    "captions": (
        "caption",
        {"image": PNG.getvalue(), "caption": ["Two dogs.", "Dogs, two."], "sentids": ["0", "1"]},
        [("u", ["#sha"], 1.0), ("a", ["Two dogs."], 1.0)],
    ),
    # all keys, null where they mean nothing: what a table makes of part lists
    "openai from a table": (
        "openai",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "text": None, "image": None},
                        {"type": "text", "text": "What?", "image": None},
                    ],
                    "weight": None,
                },
                {"role": "assistant", "content": [{"type": "text", "text": "That.", "image": None}], "weight": None},
            ],
            "images": [{"bytes": None, "path": "1.jpg"}],
        },
        [("u", ["#1.jpg", "What?"], 1.0), ("a", ["That."], 1.0)],
    ),
}
SHAPES["openai"][1]["messages"][2]["role"] = "user"  # as published: the picture is a second message of the user
SHAPES["openai"][2][:] = [
    ("u", ["What bird is this?"], 1.0),
    ("u", ["#sha"], 1.0),
    ("a", ["A kite"], 0.0),
]
SHAPES["deepseek under a key"] = ("deepseek", {"messages": SHAPES["deepseek"][1]}, SHAPES["deepseek"][2])


@pytest.mark.parametrize("name", SHAPES)
def test_published_shape(name: str) -> None:
    format, row, expected = SHAPES[name]
    for asked in ("auto", format):
        conversation = read_row(row, "rows:1", Home(Path("/data" if "swift messages" in name else "root")), asked)
        found = [
            (r, [p if not str(p).startswith("#sha256") else "#sha" for p in parts], w)
            for r, parts, w in shape(conversation)
        ]
        assert found == expected, asked
    assert conversation.system in (None, "S", "You identify birds.", "Be brief.")
    assert (conversation.system is None) == ("system" not in json.dumps(row, default=str).lower())


def test_every_format_has_a_published_shape() -> None:
    assert {format for format, _, _ in SHAPES.values()} == set(FORMATS)


@pytest.mark.parametrize("source", [PNG.getvalue(), DATA_URL, {"bytes": PNG.getvalue(), "path": "gone.png"}])
def test_bytes_and_data_urls_are_one_picture(source: Any) -> None:
    row = {"question": "?", "answer": "!", "image": source}
    (ref,) = read_row(row, "x", Home(Path("root"))).images
    assert load_image(ref, "x").getpixel((1, 1)) == (255, 0, 0)
    assert ref.source == PNG.getvalue()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([{"role": "User", "content": "<image_placeholder>?"}], "1 image placeholder.*0 image"),
        ({"query": "a", "response": "b", "history": [["a"]]}, r"history\[0\].*expected a question and an answer"),
        ({"query": "a", "response": None, "history": []}, "keys 'query', 'response'.*expected"),
        ({"query": "a", "response": 3}, "expected a question and an answer"),
        ({"question": "a", "answer": 3}, "answer: a number, expected text"),
        ({"question": "a", "answer": "b", "image": "x", "images": ["y"]}, "both 'image' and 'images'"),
        ({"question": "a", "answer": "b", "image": {"url": "x"}}, "image is dict, expected a path"),
        ({"question": "<image>", "answer": "b", "image": {"bytes": None, "path": None}}, "image is empty"),
        ({"messages": [{"role": "user", "content": "x", "weight": -1}]}, "weight: -1.0, expected a number"),
        ({"messages": [{"role": "user", "content": "x", "weight": float("nan")}]}, "weight: nan, expected"),
        ({"messages": [{"role": "user", "content": "x", "weight": "1"}]}, "weight: text, expected a number"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown 'tool'"),
        ({"caption": "a"}, "caption without an image"),
        ({"caption": [], "image": "a.png"}, "expected a list with at least one text"),
        ({"query": "a", "label": [], "image": "a.png"}, "label: .., expected a list with at least one text"),
        ({"question": "a", "answers": [1], "image": "a.png"}, "answers: .1., expected a list"),
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, "answer 2 of 2 choices"),
    ],
)
def test_rows_that_are_not_quite_of_their_format(row: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_row(row, "rows:1", Home(Path("root")))


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize(
    ("name", "shape_name", "kind"),
    [
        ("ChartQADataModule", "chartqa", "human"),
        ("DocVQADataModule", "docvqa", "handwritten"),
        ("TextVQADataModule", "textvqa", ""),
        ("ScienceQADataModule", "scienceqa", "natural science"),
        ("CaptionsDataModule", "captions", ""),
    ],
)
def test_ready_made_data_modules(name: str, shape_name: str, kind: str, tmp_path: Path, tiny_checkpoint: str) -> None:
    """A parquet file of the published layout, to batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = dict(SHAPES[shape_name][1])
    if isinstance(row["image"], bytes):
        row["image"] = {"bytes": row["image"], "path": None}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row] * 3), path)
    held: dict[str, Any] = {"validation": None, "test": str(path), "validation_rows": 0}
    data = getattr(dsvl_tune.datamodules, name)(str(path), checkpoint=tiny_checkpoint, **held)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sum(len(batch.origins) for batch in batches) == 3
    assert {one.kind for one_row in data.rows("test") for one in one_row} == {kind}
