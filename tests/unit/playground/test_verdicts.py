"""Verdicts are rows: trained on, checked and scored by the commands as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dsvl_tune.cli.main import main
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import read_row
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.playground.answering import Asked, conversation_about, read_picture
from dsvl_tune.playground.verdicts import VerdictFolder

CHART = Path(__file__).parents[3] / "examples" / "chart.png"


def asked(question: str, *answers: str, picture: bool = True, system: str | None = None) -> Asked:
    shown = read_picture(CHART, "chart.png") if picture else None
    return Asked(conversation_about(question, shown, system), answers)


@pytest.fixture
def folder(tmp_path: Path) -> VerdictFolder:
    """One verdict of each kind."""
    folder = VerdictFolder(tmp_path / "rows")
    folder.save(asked("How high is red?", "behind", "50"), "right")
    folder.save(asked("How high is blue?", "behind", "40"), "corrected", "90")
    folder.save(asked("Which is lowest?", "behind", "red"), "wrong")
    return folder


def rows_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_verdicts_are_rows_with_their_picture(folder: VerdictFolder) -> None:
    right, corrected = rows_of(folder.path / "rows.jsonl")
    (wrong,) = rows_of(folder.path / "open.jsonl")
    (picture,) = (folder.path / "images").iterdir()
    assert picture.read_bytes() == CHART.read_bytes() and picture.suffix == ".png"
    assert right == {
        "messages": [
            {"role": "user", "content": "<image>How high is red?"},
            {"role": "assistant", "content": "50"},
        ],
        "images": [f"images/{picture.name}"],
        "prediction": "50",
        "compared": "behind",
        "references": ["50"],
        "verdict": "right",
    }
    assert (corrected["prediction"], corrected["references"]) == ("40", ["90"])
    assert (wrong["prediction"], wrong["references"]) == ("red", [])
    assert folder.counts() == {"right": 1, "corrected": 1, "wrong": 1}


def test_the_commands_read_them(
    folder: VerdictFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", "dsvl_tune.datamodules.InstructDataModule"]
    files = ["--data.train", "rows/rows.jsonl", "--data.validation", "rows/rows.jsonl"]
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "check-data", *data, *files])
    main()
    assert "no errors" in capsys.readouterr().out
    scored = ["score", "rows/rows.jsonl", "--metric", "exact_match", "--out", "scored.jsonl"]
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *scored])
    main()
    assert [row["scores"] for row in rows_of(Path("scored.jsonl"))] == [
        {"exact_match": 1.0},
        {"exact_match": 0.0},
    ]


def test_they_are_trained_on_and_answered(folder: VerdictFolder) -> None:
    module = InstructDataModule(
        str(folder.path / "rows.jsonl"), test=str(folder.path / "open.jsonl"), validation_rows=0
    )
    module.setup("fit")
    (tree,) = module.rows("train")
    assert [conversation.turns[1].parts for conversation in tree] == [("50",), ("90",)]
    ((open_question,),) = module.rows("test")
    assert open_question.accepted_answers == ()


def text_of(conversation: Conversation) -> str:
    """The question with a mark for each image."""
    return "".join(part if isinstance(part, str) else "|" for part in conversation.turns[0].parts)


@pytest.mark.parametrize(
    ("question", "answer", "picture", "system"),
    [
        ("Before <image> and after", "a\nb", True, None),
        (r"What does \<image> mean?", "<image>", False, None),
        ("Weiß man's? 北京", '{"total": "1,5"}', True, "Answer briefly."),
        ("<b>bold</b> <video>", "[IMG]", True, None),
    ],
)
def test_a_row_says_what_was_asked(
    question: str, answer: str, picture: bool, system: str | None, tmp_path: Path
) -> None:
    """Tags that somebody typed as words stay words."""
    one = asked(question, answer, picture=picture, system=system)
    VerdictFolder(tmp_path).save(one, "right")
    (row,) = rows_of(tmp_path / "rows.jsonl")
    read = read_row(row, "row", ImageSource(tmp_path))
    assert text_of(read) == text_of(one.conversation)
    assert len(read.images) == picture
    assert read.turns[1].parts == (answer,)
    assert read.system == system


def test_a_later_verdict_replaces_the_earlier_one(folder: VerdictFolder) -> None:
    folder.save(asked("Which is lowest?", "behind", "red"), "corrected", "black")
    folder.save(asked("How high is red?", "behind", "50"), "wrong")
    assert folder.counts() == {"corrected": 2, "wrong": 1}
    assert len(rows_of(folder.path / "open.jsonl")) == 1


def test_rows_that_could_not_be_read_are_not_kept(folder: VerdictFolder) -> None:
    before = (folder.path / "rows.jsonl").read_bytes()
    for answer in ("", "  "):
        with pytest.raises(UserError, match="the right answer is empty"):
            folder.save(asked("What?", "a", "b"), "corrected", answer)
    assert (folder.path / "rows.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_refused(folder: VerdictFolder) -> None:
    folder.check("--out")
    (folder.path / "rows.jsonl").write_text('{"question": "mine"}\n')
    with pytest.raises(UserError, match="--out"):
        folder.check("--out")
    (folder.path / "rows.jsonl").unlink()
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--out"):
        folder.check("--out")
