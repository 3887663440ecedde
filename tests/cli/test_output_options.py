"""Output options never replace an input or a file that the command has not written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dsvl_tune.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden"
OWN = Path(__file__).parents[2] / "examples" / "own_data"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command; its exit code."""
    monkeypatch.setattr("sys.argv", ["dsvl-tune", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a copy of the example rows, in the working folder."""
    shutil.copytree(OWN, tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--config", "charts_lora", "--data", "InstructDataModule"]
    for split, name in (("train", "train"), ("validation", "test"), ("test", "test")):
        options += [f"--data.{split}", f"own/{name}.jsonl"]
    return options


@pytest.mark.parametrize(
    ("command", "option"), [("preview", "--out"), ("check-data", "--json"), ("predict", "--out")]
)
def test_rows_are_not_written_over(
    command: str,
    option: str,
    own: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = Path("own/train.jsonl").read_bytes()
    Path("link.html").symlink_to("own/train.jsonl")
    for target in ("own/train.jsonl", "link.html"):
        assert run(monkeypatch, command, *own, option, target) == 2
        assert "not written by this command" in capsys.readouterr().err
    assert Path("own/train.jsonl").read_bytes() == before


def test_answers_do_not_replace_the_questions_that_they_answer(
    own: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that look like earlier answers may be asked again."""
    rows = Path("own/again.jsonl")
    row = {"question": "What?", "answer": "That.", "source": "a.jsonl:1", "complete": True}
    rows.write_text(json.dumps(row) + "\n")
    before = rows.read_bytes()
    asked = ["predict", *own, "--data.test", str(rows), "--out", str(rows)]
    assert run(monkeypatch, *asked) == 2
    assert "is an input" in capsys.readouterr().err
    assert rows.read_bytes() == before


def test_an_own_page_and_report_are_replaced(
    own: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert run(monkeypatch, "preview", *own, "--rows", "1", "--out", "page.html") == 0
        assert run(monkeypatch, "check-data", *own, "--json", "report.json") == 0
    assert Path("page.html").is_file() and Path("report.json").is_file()


def test_convert_replaces_only_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [str(GOLDEN / "siglip" / "checkpoint"), "out", "--to", "transformers"]
    assert run(monkeypatch, "convert", *arguments) == 0
    assert run(monkeypatch, "convert", *arguments, "--overwrite") == 0
    Path("out/thesis.txt").write_text("years of work")
    assert run(monkeypatch, "convert", *arguments, "--overwrite") == 2
    assert "left as it is" in capsys.readouterr().err
    assert Path("out/thesis.txt").read_text() == "years of work"


NEW = {
    "recipes": ["recipes", "charts_lora", "--out"],
    "chart": ["examples", "--name", "chart", "--out"],
    "invoices": ["examples", "--name", "invoices", "--out"],
    "init": ["init"],
    "fix": ["check-data", "OWN", "--fix"],
    "convert": ["convert", str(GOLDEN / "siglip" / "checkpoint"), "--to", "transformers"],
}
"""Command -> its arguments before the name of what it makes."""


@pytest.mark.parametrize("command", NEW)
def test_nothing_is_made_in_the_place_of_a_link_or_below_a_file(
    command: str,
    own: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("link").symlink_to("nowhere")
    Path("thesis").write_text("years of work")
    arguments = [one for given in NEW[command] for one in (own if given == "OWN" else [given])]
    for target in ("link", "thesis", "thesis/out"):
        assert run(monkeypatch, *arguments, target) == 2
        assert target.partition("/")[0] in capsys.readouterr().err
    assert Path("link").readlink() == Path("nowhere") and not Path("nowhere").exists()
    assert Path("thesis").read_text() == "years of work"
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize("command", ["recipes", "examples"])
def test_an_output_of_nothing_is_an_error(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, command, "--out", "new") == 2
    assert "--out new: nothing to" in capsys.readouterr().err


def test_rows_of_which_no_image_can_be_read_are_reported(
    own: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.jsonl").write_text('{"question": "What?", "answer": "red", "response": "blue"}\n')
    assert run(monkeypatch, "check-data", *own, "--data.train", "bad.jsonl") == 2
    captured = capsys.readouterr()
    assert "'response' ('blue') beside 'answer' ('red')" in captured.out + captured.err
