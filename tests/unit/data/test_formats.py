"""Files of conversations: what each format means, and the message for a bad row."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.conversations import open_conversations
from dsvl_tune.data.formats.registry import Format


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder with a.png and b.png, and an image outside it that rows may not reach."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (9, 9), "red").save(folder / f"{name}.png")
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "secret.png")
    return folder


def read_conversations(path: Path, root: Path, format: Format = "auto") -> list[Conversation]:
    return list(open_conversations(str(path), root, format=format))


def write(root: Path, *rows: Any, as_list: bool = False) -> Path:
    path = root / "rows.json"
    path.write_text(
        json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows)), encoding="utf-8"
    )
    return path


def one(root: Path, row: Any) -> Conversation:
    return read_conversations(write(root, row), root)[0]


def shape(conversation: Conversation) -> list[Any]:
    """Role, weight and parts of the turns, images by file name."""
    return [
        (
            turn.role,
            turn.weight,
            [p if isinstance(p, str) else Path(p.name).name for p in turn.parts if p != ""],
        )
        for turn in conversation.turns
    ]


EXPECTED = [("user", 1.0, ["a.png", "\nWhat?"]), ("assistant", 1.0, ["That."])]


def openai(*contents: Any, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "assistant" if i % 2 else "user", "content": c} for i, c in enumerate(contents)
    ]
    return {"messages": messages, **more}


def llava(*values: str, **more: Any) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "gpt" if i % 2 else "human", "value": v} for i, v in enumerate(values)
        ],
        **more,
    }


def official(*contents: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "Assistant" if i % 2 else "User", "content": c} for i, c in enumerate(contents)
        ]
    }


@pytest.mark.parametrize(
    "row",
    [
        openai([{"type": "image", "image": "a.png"}, {"type": "text", "text": "\nWhat?"}], "That."),
        openai(
            [
                {"type": "image_url", "image_url": {"url": "a.png"}},
                {"type": "text", "text": "\nWhat?"},
            ],
            "That.",
        ),
        openai(
            [{"type": "image_url", "image_url": "./a.png"}, {"type": "text", "text": "\nWhat?"}],
            "That.",
        ),
        openai([{"type": "image"}, {"type": "text", "text": "\nWhat?"}], "That.", images=["a.png"]),
        openai("<image>\nWhat?", [{"type": "text", "text": "That."}], images=["a.png"]),
        llava("<image>\nWhat?", "That.", image="a.png", id="7"),
        llava("<image>\nWhat?", "That.", image=["a.png"]),
        llava("<image>\nWhat?", "That.", images=["a.png"]),
    ],
)
def test_the_same_conversation_in_every_format(row: dict[str, Any], root: Path) -> None:
    conversation = one(root, row)
    assert shape(conversation) == EXPECTED
    assert (conversation.system, conversation.question_type) == (None, "")


def test_several_images_turns_system_type_and_weight(root: Path) -> None:
    row = llava(
        "<image><image> Same?",
        "No.",
        "And <image>?",
        "Yes.",
        image=["a.png", "b.png", "a.png"],
        question_type="pairs",
    )
    expected = [
        ("user", 1.0, ["a.png", "b.png", " Same?"]),
        ("assistant", 1.0, ["No."]),
        ("user", 1.0, ["And ", "a.png", "?"]),
        ("assistant", 1.0, ["Yes."]),
    ]
    row["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    conversation = one(root, row)
    assert shape(conversation) == expected
    assert (conversation.system, conversation.question_type) == ("Be brief.", "pairs")
    for row in (llava("Hi", "Ho"), openai("Hi", "Ho"), official("Hi", "Ho")):
        assert one(root, {**row, "system": "Be long."}).system == "Be long."

    row = openai("Hi", "Ho")
    row["messages"][1]["weight"] = 0
    row["messages"].insert(0, {"role": "system", "content": ""})
    assert shape(one(root, row))[1] == ("assistant", 0.0, ["Ho"])
    assert one(root, row).system == ""


def test_data_url_is_the_picture_itself(root: Path) -> None:
    content = (root / "a.png").read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    (ref,) = one(root, openai([{"type": "image_url", "image_url": {"url": url}}], "x")).images
    assert ref.content == content


def test_list_and_lines_name_their_rows(root: Path) -> None:
    rows = [llava("Hi", "Ho"), openai("Hi", "Ho")]
    path = write(root, *rows, as_list=True)
    assert [c.source for c in read_conversations(path, root)] == [
        f"{path}: row 1",
        f"{path}: row 2",
    ]
    path.write_text(
        f"{json.dumps(rows[0])}\n\n{json.dumps(openai('a b', 'c'), ensure_ascii=False)}\n"
    )
    assert [c.source for c in read_conversations(path, root)] == [f"{path}:1", f"{path}:3"]


BAD = [
    (openai("<image><image> Same?", "No.", images=["a.png"]), "2 image placeholder.* 1 image"),
    (llava("Same?", "No.", images=["a.png"]), "0 image placeholder.* 1 image"),
    (openai("<image 2>?", "No.", images=["a.png"]), "1 image placeholder.* 1 image"),
    (openai("<image 1>?", "No.", images=["a.png", "b.png"]), "1 image placeholder.* 2 image"),
    (openai("<image> <image 1>?", "No.", images=["a.png"]), "2 image placeholder.* 1 image"),
    (llava("<image>?", "No."), "1 image placeholder.* 0 image"),
    (
        {"messages": [{"role": "asistant", "content": "x"}]},
        r"messages\[0\].role.*'asistant'.*Did you mean 'assistant'",
    ),
    ({"conversations": [{"from": "Human", "value": "x"}]}, "'Human'.*Did you mean 'human'"),
    ({"messages": [{"content": "x"}]}, "no 'role'.*found: 'content'"),
    (
        {"messages": [{"role": "user", "content": None}]},
        r"messages\[0\].content: null, expected text or a list",
    ),
    (
        openai([{"type": "video", "video": "x"}], "x"),
        r"messages\[0\].content\[0\].type: unknown .*'video'",
    ),
    ({"message": [1]}, "keys 'message', expected .*messages .openai."),
    ({"messages": "x"}, "messages: text, expected a list"),
    ([1, 2], "a list of 2, expected a JSON object"),
    (openai("<image>", "x", images=["https://example.org/a.png"]), "nothing is fetched"),
    (openai("<image>", "x", images=["../secret.png"]), "outside the images' root"),
    (openai("<image>", "x", images=["/etc/passwd"]), "outside the images' root"),
    (openai("<image>", "x", images=["link.png"]), "outside the images' root"),
    (openai("<image>", "x", images=["data:image/png;base64,?"]), "not base64"),
    (openai("<image>", "x", images=[7]), "images: image is int, expected a path"),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
        "system message after",
    ),
    (
        {**openai("Hi", "Ho"), "messages": [{"role": "system", "content": "x"}], "system": "y"},
        "system message after",
    ),
    (
        {"question": "What?", "answer": "That.", "image_path": "a.png"},
        "'image_path'.*Rename it to 'image'",
    ),
    ({"question": "What?", "answer": None}, "keys 'question', 'answer' .null., expected"),
    (
        openai([{"type": "image", "path": "a.png"}], "x"),
        r"content\[0\]: no image is read from 'path'.*Rename",
    ),
    (
        openai([{"type": "image", "url": "a.png"}], "x", images=["b.png"]),
        r"content\[0\]: no image is read from 'url'",
    ),
    (openai("What?", "That.", image_paths=["a.png"]), "'image_paths'.*Rename it to 'image'"),
    (openai("<image>What?", "That.", img="a.png"), "'img'.*Rename it to 'image'"),
    (
        {"messages": [{"role": "user", "content": "x", "images": ["a.png"]}]},
        r"\[0\].images: .*the row's 'images'",
    ),
    (
        {"conversations": [{"from": "human", "value": "x", "image": "a.png"}]},
        r"\[0\].image: .*the row's 'images'",
    ),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_bad_rows_are_reported_with_file_and_row(row: Any, words: str, root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    path = write(root, openai("Hi", "Ho"), row)
    with pytest.raises(UserError, match=words) as error:
        read_conversations(path, root)
    assert f"{path}:2" in str(error.value)


def test_bad_files(root: Path) -> None:
    path = root / "rows.jsonl"
    with pytest.raises(UserError, match="rows.jsonl: cannot be read"):
        read_conversations(path, root)
    path.write_text("\n")
    with pytest.raises(UserError, match="no rows"):
        read_conversations(path, root)
    path.write_text(json.dumps(openai("Hi", "Ho")) + '\n{"messages": [')
    with pytest.raises(UserError, match="rows.jsonl:2: not JSON"):
        read_conversations(path, root)
    path.write_text(json.dumps(openai("Hi", "Ho")))
    with pytest.raises(UserError, match="no 'conversations'"):
        read_conversations(path, root, format="llava")


def test_an_unknown_format_is_an_error(root: Path) -> None:
    path = write(root, openai("Hi", "Ho"))
    with pytest.raises(UserError, match="data.format 'lava'.*'llava'"):
        read_conversations(path, root, format="lava")


def test_images_of_one_file_have_one_name(root: Path) -> None:
    rows = [
        openai("<image>", "x", images=[path]) for path in ("a.png", "./a.png", str(root / "a.png"))
    ]
    assert len({ref.name for row in rows for ref in one(root, row).images}) == 1
