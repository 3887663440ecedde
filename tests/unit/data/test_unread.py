"""Whatever in a row is or names a picture, clip or sound is read, or an error with row and key."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import read_row
from dsvl_tune.data.images.load import load_image


def encoded(color: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), color).save(buffer, kind)
    return buffer.getvalue()


PNG, JPEG = encoded("red"), encoded("blue", "JPEG")
BASE64 = base64.b64encode(PNG).decode()
QUESTION = {"question": "What?", "answer": "That."}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "noending", "two words of a name.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "clip").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "words.txt").write_text("x")
    return tmp_path


def read(row: Any, root: Path, **options: Any) -> Conversation:
    return read_row(row, "rows:1", ImageSource(root), **options)


UNREAD: dict[str, Any] = {
    "Images": ["a.png"],
    "image_1": "a.png",
    "file_name": "a.png",
    "captioning": "a.png",
    "picture": "IMG_0001",
    "imageId": 262148,
    "depth": {"bytes": PNG, "path": None},
    "meta": {"deep": [{"image": {"path": "a.png"}}]},
    "thumbnail": PNG,
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1",
    "latent": bytes(range(200, 256)),
    "svg": b"<?xml version='1.0'?>\n<svg xmlns='x'/>",
    "url": "https://example.org/x/a.JPG?w=3",
    "data": f"data:image/png;base64,{BASE64}",
    "b64": BASE64,
    "where": "noending",
    "title": "two words of a name.png",
    "gone": "none.webp",
    "typed": "A.PNG ",
    "videos": ["a.mp4"],
    "film": "clip",
    "audio": {"array": [0.0, 0.1], "sampling_rate": 16_000},
    "speech": "x.wav",
    "pixels": [[[0, 0, 0]] * 9] * 8,
    "PIL": Image.new("RGB", (2, 2)),
}
"""Key of a row that no format reads -> its value."""


@pytest.mark.parametrize("key", UNREAD)
def test_what_no_format_reads_is_an_error(key: str, root: Path) -> None:
    with pytest.raises(UserError, match=f"rows:1: .*{key!r}") as error:
        read({**QUESTION, key: UNREAD[key]}, root)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("key", ["depth", "thumbnail", "latent", "b64", "where", "videos", "PIL"])
def test_it_is_one_beside_an_image_that_is_read(key: str, root: Path) -> None:
    with pytest.raises(UserError, match=f"rows:1: .*{key!r}"):
        read({**QUESTION, "image": JPEG, key: UNREAD[key]}, root)


MESSAGES: dict[str, tuple[Any, str]] = {
    "openai": ({"role": "user", "content": "x", "file_name": "a.png"}, "messages"),
    "llava": ({"from": "human", "value": "x", "video": "a.mp4"}, "conversations"),
    "pairs": ({"user": "x", "picture": "a.png", "assistant": "y"}, "texts"),
    "deepseek": ({"role": "User", "content": "x", "img": "a.png"}, "conversation"),
    "part": (
        {"role": "user", "content": [{"type": "text", "text": "x", "image": "a.png"}]},
        "messages",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_and_parts_too(name: str, root: Path) -> None:
    message, key = MESSAGES[name]
    with pytest.raises(UserError, match=rf"rows:1: {key}\[0\].*(no image is read|only images)"):
        read({key: [message]}, root)


SAID: dict[str, Any] = {
    "id": "a.png",
    "file_name": "x/a.jpg",
    "coco_url": "http://images.example.org/a.jpg",
    "note": "This sentence of more than four words ends like a.png",
    "width": 640,
    "has_image": True,
    "image_size": [640, 480],
    "rows": "words.txt",
    "ocr_tokens": ["a", "b"],
    "tokens": [[1, 2], [3, 4]],
    "polygon": [[[1, 2], [3, 4], [5, 6]]],
    "cls": b"5",
}


@pytest.mark.parametrize("key", SAID)
def test_what_is_said_about_an_image_is_none(key: str, root: Path) -> None:
    assert len(read({**QUESTION, "image": "a.png", key: SAID[key]}, root).images) == 1


def test_an_embedded_image_may_have_a_name_and_an_address(root: Path) -> None:
    """TextVQA, flickr30k and img2dataset have them; another picture at hand is still one."""
    row = {**QUESTION, "image": {"bytes": PNG, "path": None}}
    row |= {"filename": "1000092795.jpg", "flickr_300k_url": "https://example.org/o.jpg"}
    assert len(read(row, root).images) == 1
    with pytest.raises(UserError, match="'mask'"):
        read({**row, "mask": "b.png"}, root)


def test_text_rows_stay_text(root: Path) -> None:
    for row in ({"image_id": None}, {"image": ""}, {"images": []}, {"img": -1}, {"n_images": 0}):
        assert not read({**QUESTION, **row}, root).images


TAGS = [
    *("<video>", "<audio>", "<bbox>", "<ref-object>", "<img>", "<Image>", "<IMAGE>", "[IMG]"),
    *("<image_placeholder>", "<ImageHere>", "<|image|>", "<|vision_start|>", "<|image_pad|>"),
    *("<IMG_CONTEXT>", "<images>", "<speech>", "<picture>", "<video_1>"),
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["question", "answer", "system"])
def test_a_tag_is_refused_and_can_be_written(tag: str, place: str, root: Path) -> None:
    row = {**QUESTION, "system": "S", place: f"So {tag} it"}
    with pytest.raises(UserError, match=f"rows:1: {place}: .*in the text"):
        read(row, root)
    escaped = read({**row, place: f"So \\{tag} it"}, root)
    texts = [escaped.question, escaped.turns[-1].text, escaped.system]
    assert f"So {tag} it" in texts and not escaped.images


def test_the_word_image_can_be_written(root: Path) -> None:
    row = {"question": "<image>The tag?", "answer": r"\<image>", "image": "a.png"}
    assert read(row, root).turns[-1].text == "<image>"
    assert read({**row, "answers": [r"\<image>"], "answer": None}, root).references == ("<image>",)
    for html in ("<img src='x.png' alt=''>", "![x](http://example.org/x.png)", "<b>x</b>"):
        assert read({**row, "answer": html}, root).turns[-1].text == html


@pytest.mark.parametrize(
    "text",
    [
        "![x](a.png)",
        "<img width=3 src='a.png'>",
        f"![x](data:image/png;base64,{BASE64})",
        f"data:image/png;base64,{BASE64}",
    ],
)
def test_a_text_that_shows_a_picture_at_hand(text: str, root: Path) -> None:
    with pytest.raises(UserError, match="rows:1: question: the text"):
        read({**QUESTION, "question": text}, root)


@pytest.mark.parametrize("key", ["question", "system"])
@pytest.mark.parametrize("text", ["none.jpg", " noending\n", "https://example.org/x.png"])
def test_a_text_that_is_a_file_name(key: str, text: str, root: Path) -> None:
    with pytest.raises(UserError, match="rows:1: the .*text is .*the name of a file"):
        read({**QUESTION, key: text}, root)
    assert read({**QUESTION, "answer": text}, root)


@pytest.mark.parametrize(
    "key", ["objects", "kind", "question_types", "hint", "A", "txt", "history"]
)
def test_keys_that_some_format_reads_are_no_hiding_place(key: str, root: Path) -> None:
    for row in (
        QUESTION,
        {"query": "q", "response": "r"},
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        {"question": "q", "answers": ["x"]},
    ):
        with pytest.raises(UserError, match="^rows:1"):
            read({**row, key: [{"bytes": PNG, "path": None}]}, root)


def test_img_tags_are_read(root: Path) -> None:
    """Qwen-VL's way of writing an image into a text."""
    row = {**QUESTION, "question": "One: <img>a.png</img>\nTwo: <img>b.png</img>\nSame?"}
    assert [Path(ref.name).name for ref in read(row, root).images] == ["a.png", "b.png"]
    with pytest.raises(UserError, match="outside the images' root"):
        read({**QUESTION, "question": "<img>/etc/passwd</img>"}, root)


def test_numbered_tags(root: Path) -> None:
    row = {**QUESTION, "question": "<image 2><|image_1|><image2>?", "images": ["a.png", "b.png"]}
    found = [Path(ref.name).name for ref in read(row, root).images]
    assert found == ["b.png", "a.png", "b.png"]


def test_objects_of_swift(root: Path) -> None:
    """Boxes are thousandths of the picture, which is 9 x 9 px."""
    row = {
        "messages": [
            {"role": "user", "content": "<image>Where is <ref-object>?"},
            {"role": "assistant", "content": "<bbox> and <bbox>"},
        ],
        "images": ["a.png"],
        "objects": {"ref": ["the <image> dog"], "bbox": [[0, 4.5, 9, 9], [3, 6]]},
    }
    found = read(row, root)
    assert found.question == "Where is the <image> dog?" and len(found.images) == 1
    assert found.turns[-1].text == "[0, 500, 999, 999] and [333, 666]"
    row["objects"] |= {"bbox": [[0, 0.5, 1, 1], [0.25, 1]], "bbox_type": "norm1"}
    assert read(row, root).turns[-1].text == "[0, 500, 999, 999] and [250, 999]"
    for bad, words in (
        ({"bbox": [[1, 2, 3, 4]]}, "more <bbox> in the texts than the 1 listed"),
        ({"bbox": [[1, 2, 3, 4]] * 3}, "2 <bbox> in the texts, but 3 are listed"),
        ({"bbox": [[1, 2], [3, "4"]]}, r"bbox\[1\]: a list of 2, expected two or four numbers"),
        ({"bbox": [[1, 2], [3, 10**400]]}, r"bbox\[1\]: a list of 2, expected two or four numbers"),
        ({"bbox": [[1, 2], [3, 99]]}, r"bbox\[1\]: .*outside its image of 9 x 9"),
        ({"bbox": [[1, 2], [3, 4]], "image_id": [0, 1]}, r"bbox\[1\]: its image is not among"),
    ):
        with pytest.raises(UserError, match=words):
            read({**row, "objects": {"ref": ["x"], **bad}}, root)


TWICE: dict[str, dict[str, Any]] = {
    "answers and answer": {
        "question": "?",
        "answers": ["red", "green", "blue"],
        "answer": "blue",
    },
    "messages and conversations": {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}],
    },
    "response and label": {"query": "?", "response": "a", "label": "b"},
    "caption and answer": {"question": "?", "answer": "a", "caption": "b", "image": PNG},
    "completion and answer": {"question": "?", "answer": "a", "prompt": "?", "completion": "b"},
    "images": {"question": "?", "answer": "a", "image": "a.png", "images": ["b.png"]},
    "kind": {"question": "?", "answer": "a", "kind": "x", "question_type": "y"},
    "weight": {"messages": [{"role": "user", "content": "a", "weight": 1, "loss": False}]},
    "options": {"question": "?", "answer": "A", "A": "x", "B": "y", "choices": ["x", "z"]},
    "answer and index": {
        "question": "?",
        "answer": "A",
        "correct_choice_idx": 1,
        "choices": ["x", "y"],
    },
    "image and image_1": {
        "question": "?",
        "answer": "A",
        "options": ["x", "y"],
        "image": "a.png",
        "image_1": "b.png",
    },
}
SECOND: dict[str, tuple[dict[str, Any], str, str]] = {
    "answer and response": (
        {"question": "?", "answer": "red", "response": "blue"},
        "response",
        "answer",
    ),
    "answer and label": ({"question": "?", "answer": "red", "label": ["blue"]}, "label", "answer"),
    "answers and response": (
        {"question": "?", "answers": ["red", "rose"], "response": "blue"},
        "response",
        "answers",
    ),
    "question and prompt": (
        {"prompt": "Where?", "question": "What?", "answer": "a"},
        "prompt",
        "question",
    ),
    "question and query": (
        {"query": "Where?", "question": "What?", "answer": "a"},
        "query",
        "question",
    ),
    "question and messages": (
        {"question": "What?", "prompt": [{"role": "user", "content": "Where?"}], "answer": "a"},
        "prompt",
        "question",
    ),
    "messages and prompt": (
        {"messages": [{"role": "user", "content": "a"}], "prompt": "Where?"},
        "prompt",
        "messages",
    ),
    "messages and answer": (
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "It is red."},
            ],
            "answer": "blue",
        },
        "answer",
        "messages",
    ),
    "caption and question": (
        {"image": PNG, "caption": "A dog", "question": "What?"},
        "question",
        "caption",
    ),
    "caption and txt": ({"image": PNG, "caption": "A dog", "txt": "A cat"}, "txt", "caption"),
    "options and response": (
        {"question": "?", "options": ["x", "y"], "answer": "A", "response": "y"},
        "response",
        "answer",
    ),
    "open answers": (
        {"question": "?", "options": "[]", "answer": "7", "label": "8"},
        "answer",
        "label",
    ),
    "pair": ({"texts": [{"user": "a", "human": "b", "assistant": "c"}]}, "user", "human"),
    "message": (
        {"messages": [{"role": "user", "content": "a", "value": "b"}]},
        "content",
        "value",
    ),
}
"""Name -> a row, and the two keys that the error names."""


@pytest.mark.parametrize("name", SECOND)
def test_a_second_question_or_answer_is_named(name: str, root: Path) -> None:
    row, *keys = SECOND[name]
    for key in keys:
        with pytest.raises(UserError, match=rf"^rows:1.*\b{key}\b"):
            read(row, root, needs_answer="messages" not in row)


@pytest.mark.parametrize("name", TWICE)
def test_what_is_said_twice_must_agree(name: str, root: Path) -> None:
    with pytest.raises(UserError, match=r"^rows:1.*(two things|differ|different|both)"):
        read(TWICE[name], root)


def test_what_agrees_may_be_said_twice(root: Path) -> None:
    row = {"question": "?", "answers": ["blue", "red", "blue"], "answer": "blue"}
    assert read(row, root).turns[-1].text == "blue"
    row["answer"] = "red"
    assert read(row, root, format="answers").turns[-1].text == "blue"
    assert read(row, root, format="question_answer").turns[-1].text == "red"
    for more in (
        {"response": " that."},
        {"label": 3},
        {"prompt": "<image>What?"},
        {"query": "Hint: look.\nQuestion: What?\nChoices: (A) this"},  # MathVista
        {"response": "", "query": None},
    ):
        assert read({**QUESTION, "image": "a.png", **more}, root).turns[-1].text == "That."
    turns = ["What?", "It is blue.", "Sure?", "Yes."]
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 2, turns, strict=True)
    ]
    chat = {"messages": messages, "prompt": "What?", "answer": "blue"}  # ultrachat, OpenR1
    assert read(chat, root).turns[-1].text == "Yes."
    both = {**QUESTION, "image": "a.png", "images": ["./a.png"]}
    assert len(read(both, root).images) == 1


def test_an_option_that_could_be_two(root: Path) -> None:
    def letter(answer: Any, *options: str) -> str:
        row = {"question": "?", "options": list(options), "answer": answer}
        return read(row, root).turns[-1].text

    assert letter("1", "x", "y") == letter("y", "x", "y") == letter("(b)", "x", "y") == "B"
    assert letter("A", "A", "B") == "A"
    for answer, options in (
        ("1", ("1", "2")),
        ("A", ("B", "A")),
        ("z", "xy"),
        (2, "xy"),
        (-1, "xy"),
    ):
        with pytest.raises(UserError, match="answer .* of 2 choices"):
            letter(answer, *options)


def test_questions_without_answers(root: Path) -> None:
    """Rows of public test splits, in each format with an answer of its own."""
    rows: list[dict[str, Any]] = [
        {"question": "Q", "image": "a.png"},
        {"question": "Q", "image": "a.png", "answer": None},
        {"question": "Q", "image": "a.png", "answer": ""},
        {"question": "Q", "image": "a.png", "answers": []},
        {"question": "Q", "image": "a.png", "answers": None, "question_types": None},
        {"query": "Q", "images": ["a.png"]},
        {"query": "Q", "imgname": "a.png"},
        {"prompt": "Q", "image": "a.png"},
        {"messages": [{"role": "user", "content": "Q"}], "images": ["a.png"]},
        {"conversations": [{"from": "human", "value": "<image>Q"}], "image": "a.png"},
        {"texts": [{"user": "Q"}], "images": ["a.png"]},
        {"question": "Q", "choices": ["x", "y"], "image": "a.png"},
        {"question": "Q", "options": "['x', 'y']", "answer": "?", "image_1": "a.png"},
        {"question": "Q", "A": "x", "B": "y", "image": "a.png"},
    ]
    for row in rows:
        found = read(row, root, needs_answer=False)
        assert found.question.startswith("Q") and len(found.images) == 1, row
        assert len(found.turns) == 1 and found.accepted_answers == ()
    for row in rows[:8] + rows[11:]:
        with pytest.raises(UserError, match=r"^rows:1: keys|^rows:1: no "):
            read(row, root)


def test_files_of_a_label_studio_server(root: Path) -> None:
    (root / "images").mkdir()
    (root / "images" / "c d.png").write_bytes(PNG)
    added = {"annotation_id": 1, "annotator": 1, "lead_time": 1.0}
    for name, found in (
        ("/data/upload/1/a.png", "a.png"),
        ("/data/upload/1/c%20d.png", "images/c d.png"),
        ("/data/local-files/?d=images/c%20d.png", "images/c d.png"),
    ):
        (ref,) = read({**QUESTION, **added, "img": name}, root).images
        assert ref.content == root / found
    with pytest.raises(UserError, match="a file of Label Studio's server"):
        read({**QUESTION, **added, "image": "/data/upload/1/none.png"}, root)
    with pytest.raises(UserError, match="a file of Label Studio's server|outside the images' root"):
        read({**QUESTION, "image": "/data/upload/../../etc/passwd"}, root)


def test_no_message_prints_a_value_whole(root: Path) -> None:
    long = "x" * 300_000
    for row in (
        {**QUESTION, "image": BASE64[:-5] + "/" * 300_000 + "!"},
        {**QUESTION, "image": "/" * 300_000},
        {**QUESTION, "image": long},
        {**QUESTION, "image": f"http://x/{long}"},
        {**QUESTION, "image": f"data:{long}"},
        {"question": long, "answer": [long]},
        {long: long},
        {f"{long}{i}": 1 for i in range(50)},
        {"messages": [{"role": long, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": long}]}]},
        {"query": "x", "response": "y", "history": [[long] * 3]},
        {"question": "?", "choices": [long, "y"], "answer": long + "y"},
    ):
        with pytest.raises(UserError) as error:
            read(row, root)
        assert len(str(error.value)) < 900, json.dumps(str(error.value))[:300]


def test_rows_as_deep_as_json_may_be(root: Path) -> None:
    deep: Any = "a.png"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(UserError, match="'deep'"):
        read({**QUESTION, "deep": deep}, root)
    for row in ({"question": deep, "answer": "x"}, {**QUESTION, "image": deep}, {"messages": deep}):
        with pytest.raises(UserError, match="^rows:1"):
            read(row, root)


def test_a_large_picture_in_base64_takes_linear_time(root: Path) -> None:
    start = time.process_time()
    large = base64.b64encode(PNG + bytes(6_000_000)).decode()
    (ref,) = read({**QUESTION, "image": large}, root).images
    assert len(ref.content) == len(PNG) + 6_000_000  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is not base64") as error:
        read({**QUESTION, "image": BASE64 + "/" * 6_000_000 + "!"}, root)
    assert time.process_time() - start < 5 and len(str(error.value)) < 300


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_called_so(root: Path) -> None:
    (root / "a.png").chmod(0)
    with pytest.raises(UserError, match="may not be read"):
        load_image(read({**QUESTION, "image": "a.png"}, root).images[0], "rows:1")
