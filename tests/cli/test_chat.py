"""`dsvl-tune chat`: single answers and conversations, sampled and greedy."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from dsvl_tune.cli.dialog import AnswerStreamer
from dsvl_tune.cli.main import main
from dsvl_tune.core.terminal import escape
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.evaluation.generation.generate import answer_prompts
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with three pictures, as the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, size in {"red": (40, 20), "green": (20, 40), "blue": (30, 30)}.items():
        Image.new("RGB", size, name).save(f"{name}.png")


class Keyboard(io.StringIO):
    """A standard input that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def chat(
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    *arguments: str,
    typed: str = "",
    piped: bool = False,
) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "chat", "--model", str(model), *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed) if piped else Keyboard(typed))
    main()


class Pieces(io.StringIO):
    """A standard output that remembers each piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_one_answer_is_the_golden_one(
    family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Pieces()
    monkeypatch.setattr(sys, "stdout", output)
    question = ["--image", str(GOLDEN / family / "images" / "chart.png"), "--max_new_tokens", "12"]
    chat(
        monkeypatch,
        GOLDEN / family / "checkpoint",
        *question,
        "--prompt",
        "Describe the image in one sentence.",
    )
    ids = load_file(GOLDEN / family / "logits.safetensors")["gen_one_image.greedy_ids"]
    assert (
        output.getvalue()
        == escape(open_checkpoint(GOLDEN / family / "checkpoint").tokenizer.decode(ids).strip())
        + "\n"
    )
    assert sum(bool(piece.strip()) for piece in output.pieces) > 1  # it came as it was made
    assert "cut off after 12 tokens" in capsys.readouterr().err


def test_pictures_and_turns_add_up(
    hybrid_checkpoint: Path,
    colors: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed = [
        "Which is larger?",
        "/image no_such.png",
        "/image blue.png",
        f"What is {open_checkpoint(hybrid_checkpoint).tokenizer.eos_token}?",
        "Is this <image> round?",
        "<image>And where is a second one?",
        "Why?",
    ]
    options = ["--image", "[red.png, green.png]", "--max_new_tokens", "5", "--system", ""]
    chat(monkeypatch, hybrid_checkpoint, *options, typed="\n".join(typed))
    output = capsys.readouterr()

    red, green, blue = (ImageRef(Path(f"{name}.png"), name) for name in ("red", "green", "blue"))
    processor, model = (
        open_checkpoint(hybrid_checkpoint).processor,
        create_model(open_checkpoint(hybrid_checkpoint)),
    )
    turns: tuple[Turn, ...] = ()
    answers = []
    for parts in [(red, green, "Which is larger?"), ("Is this ", blue, " round?"), ("Why?",)]:
        turns = (*turns, Turn("user", parts))
        prompt = encode_prompt(Conversation(turns, "test", system=""), processor)
        prompts = normalize_images(collate_prompts([prompt], processor.pad_id), processor)
        answers.append(
            answer_prompts(model, processor.tokenizer, prompts, max_new_tokens=5)[0].text
        )
        turns = (*turns, Turn("assistant", (answers[-1],)))
    shown = [escape(text, keep="\n\t") for text in answers]
    assert [text.strip() for text in output.out.split("> ") if text.strip()] == shown
    assert "no_such.png: no such file" in output.err
    assert "special token" in output.err
    assert "placeholder(s) in the text, but 0 image(s)" in output.err


@pytest.mark.parametrize("typed", ["a b.png", '"a b.png"', "'a b.png'", r"a\ b.png", " a b.png "])
def test_a_path_may_be_quoted_or_escaped(
    hybrid_checkpoint: Path,
    typed: str,
    colors: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("red.png").rename("a b.png")
    lines = f"/image {typed}\nWhat?\n"
    chat(monkeypatch, hybrid_checkpoint, "--max_new_tokens", "2", typed=lines, piped=True)
    assert "no such file" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("/image no_such.png\nWhat?\n", "no_such.png: no such file"),
        ('/image "no\x1b[2J.png"\nWhat?\n', r"no\x1b[2J.png: no such file"),
        ("/image broken.png\nWhat?\n", "broken.png"),
        ("And <image>?\nWhat?\n", "placeholder(s) in the text, but 0 image(s)"),
    ],
)
def test_piped_lines_end_at_the_first_that_fails(
    hybrid_checkpoint: Path,
    lines: str,
    message: str,
    colors: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("broken.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        chat(monkeypatch, hybrid_checkpoint, "--max_new_tokens", "2", typed=lines, piped=True)
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert message in output.err
    assert "\x1b" not in output.err
    assert output.out.replace("> ", "").strip() == ""


def test_what_a_model_says_cannot_steer_the_terminal(
    hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streamer = AnswerStreamer(open_checkpoint(hybrid_checkpoint).tokenizer)
    streamer.on_finalized_text("\x1b]0;title\x07red\r")
    streamer.on_finalized_text("\n\tblue\u202e\x9b2J", stream_end=True)
    assert capsys.readouterr().out == r"\x1b]0;title\x07red\r" + "\n\tblue" + r"\u202e\x9b2J" + "\n"


def test_drawn_answers_follow_the_seed(
    hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for seed in (1, 2, 1):
        drawing = ["--temperature", "1.5", "--seed", str(seed), "--max_new_tokens", "8"]
        chat(monkeypatch, hybrid_checkpoint, *drawing, "--prompt", "Hello")
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--top_p", "0.5"], "--top_p 0.5: no effect on greedy answers"),
        (["--temperature", "-1"], "--temperature: -1.0, expected"),
        (["--temperature", "1", "--top_p", "0"], "--top_p: 0.0, expected"),
        (["--max_new_tokens", "0"], "--max_new_tokens: 0, expected"),
        (["--temperature", ".nan"], "--temperature: nan, expected"),
        (["--seed", "-5"], "--seed: -5, expected"),
        (["--image", "no_such.png"], "no_such.png: no such file"),
        (["--dtype", "float8"], "float8"),
        (["--prompt", " "], "empty"),
    ],
)
def test_bad_arguments(
    hybrid_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        chat(monkeypatch, hybrid_checkpoint, *arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_the_answer_ends_at_the_end_token(
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A checkpoint whose config.json names no end token, as the published ones."""
    config = json.loads((hybrid_checkpoint / "config.json").read_text(encoding="utf-8"))
    assert (
        config["text_config"].get("eos_token_id")
        != open_checkpoint(hybrid_checkpoint).tokenizer.eos_token_id
    )
    for seed in range(20):
        drawing = [
            "--temperature",
            "3",
            "--top_p",
            "1",
            "--repetition_penalty",
            "1",
            "--seed",
            str(seed),
        ]
        chat(
            monkeypatch, hybrid_checkpoint, *drawing, "--prompt", "Hello", "--max_new_tokens", "60"
        )
        if "cut off" not in capsys.readouterr().err:
            return
    pytest.fail("no answer came to its end")
