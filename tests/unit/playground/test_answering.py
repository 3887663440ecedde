"""Answers as the page shows them: token by token, stopped when nobody listens, safe pictures."""

from __future__ import annotations

import struct
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.chat_model import ChatModel, load_model
from dsvl_tune.playground.answering import (
    Column,
    conversation_about,
    read_picture,
    stream_answer,
    stream_answers,
)

CHART = Path(__file__).parents[3] / "examples" / "chart.png"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ChatModel:
    return load_model(checkpoint)


def test_the_stream_ends_with_the_answer_of_chat(model: ChatModel) -> None:
    """Random weights answer with fragments of characters, so every step shows whole ones only."""
    conversation = conversation_about("What is it?", read_picture(CHART, "chart.png"), None)
    texts = list(stream_answer(model, conversation, 12))
    expected = model.reply(conversation, max_new_tokens=12)
    assert texts[-1] == expected.text
    assert len(texts) == expected.tokens + 1
    assert not [text for text in texts[:-1] if text.endswith("\ufffd")]


def test_two_models_answer_one_after_the_other(model: ChatModel) -> None:
    columns = [Column("one", model), Column("two", model)]
    conversation = conversation_about("What is it?", None, None)
    shown = list(stream_answers(columns, conversation, 4))
    half = len(shown) // 2
    assert {second for _, second in shown[:half]} == {""}
    answer = model.reply(conversation, max_new_tokens=4).text
    assert shown[half - 1] == (answer, "")
    assert shown[-1] == (answer, answer)


def test_a_model_stops_when_nobody_listens(model: ChatModel) -> None:
    before = threading.active_count()
    answers = stream_answer(model, conversation_about("What is it?", None, None), 400)
    next(answers)
    assert threading.active_count() == before + 1
    answers.close()
    assert threading.active_count() == before


def test_errors_of_the_model_reach_the_page(model: ChatModel) -> None:
    long = conversation_about("word " * 600, None, None)
    with pytest.raises(UserError, match="tokens"):
        list(stream_answer(model, long, 4))


def test_an_empty_question_and_a_missing_picture_are_refused() -> None:
    with pytest.raises(UserError, match="question: it is empty"):
        conversation_about("  \n", None, None)
    with pytest.raises(UserError, match="placeholder"):
        conversation_about("<image>What?", None, None)


def bomb() -> bytes:
    """A PNG of a few bytes whose header announces 400 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "large"),
        (CHART.read_bytes()[:500], "damaged or truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is SVG"),
        (b"%PDF-1.7", "it is PDF"),
        (b"", "it is empty"),
    ],
    ids=["bomb", "truncated", "svg", "pdf", "empty"],
)
def test_pictures_are_read_as_those_of_rows(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_picture(tmp_path / "x.png", "x.png")


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="2 images in one GIF"):
        read_picture(tmp_path / "a.gif", "a.gif")
