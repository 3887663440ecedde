"""Answers that were kept before a kill."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.evaluation.answer_log import AnswerLog
from dsvl_tune.evaluation.answers import Answer


def answer(number: int) -> Answer:
    return Answer(
        source=f"rows:{number}",
        question_type="",
        question="?",
        references=("a", "b"),
        text=f"number {number}\n",
        number=number,
        fields={"options": ["x"]},
    )


def started(out: Path, identity: str = "same", rank: int = 0) -> AnswerLog:
    log = AnswerLog(out, identity, rank)
    log.start()
    return log


def test_answers_of_all_processes_are_read_again(tmp_path: Path) -> None:
    out = tmp_path / "answers[1].jsonl"
    for rank in (0, 1):
        started(out, rank=rank).append([answer(rank), answer(2)])
    kept = AnswerLog(out, "same").read()
    assert kept == [answer(0), answer(2), answer(1)]
    started(out).append([answer(5)])  # the next attempt keeps what was there
    assert {one.number for one in AnswerLog(out, "same").read()} == {0, 1, 2, 5}
    AnswerLog(out, "same").remove()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    log = started(out)
    log.append([answer(0), answer(1)])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-9])
    assert AnswerLog(out, "same").read() == [answer(0)]
    started(out).append([answer(1)])
    assert log.path.read_bytes() == whole


def test_answers_of_something_else_are_dropped(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    started(out).append([answer(0)])
    assert AnswerLog(out, "another").read() == []
    for content in (b"", b"garbage\n", b'{"identity": "same"}\n{"a": 1}\n', b"[1]\n"):
        AnswerLog(out, "same").path.write_bytes(content)
        assert AnswerLog(out, "same").read() == []
