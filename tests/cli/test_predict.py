"""`dsvl-tune predict` and `test`: golden answers in a batch, a run's weights, bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import refused
from PIL import Image
from runs import answers_in
from safetensors.torch import load_file

from dsvl_tune.cli.main import main
from dsvl_tune.evaluation.answer_log import AnswerLog
from dsvl_tune.families import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
GENERATION = ("gen_text", "gen_one_image", "gen_three_images_two_turns")
SMALL = {
    "train_charts": 8,
    "validation_charts": 1,
    "test_charts": 2,
    "retention_scenes": 0,
    "batch_size": 2,
}
RECIPE: dict[str, Any] = {
    "model": {"lr": 0.05, "warmup_steps": 0, "max_new_tokens": 4},
    "data": {"class_path": "dsvl_tune.datamodules.ChartsDataModule", "init_args": SMALL},
    "trainer": {"max_steps": 4, "val_check_interval": 2, "enable_progress_bar": False},
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    main()


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def golden_row(case: dict[str, Any]) -> dict[str, Any]:
    """A golden case as a row of data, its last question unanswered."""
    messages = [{"role": "system", "content": case["system"]["text"]}]
    images = []
    for message in case["messages"]:
        content = message["content"].replace("<image_placeholder>", "<image>")
        images += message.get("images", [])
        if content:
            messages.append({"role": message["role"].lower(), "content": content})
    return {"messages": messages, "images": images}


@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_a_batch_of_golden_questions(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = json.loads((GOLDEN / family / "conversations.json").read_text(encoding="utf-8"))[
        "cases"
    ]
    rows = [golden_row(case) for case in cases if case["id"] in GENERATION]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answered = {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    }
    Path("train.jsonl").write_text(json.dumps(answered), encoding="utf-8")
    data = ["--data", "dsvl_tune.datamodules.InstructDataModule", "--data.validation_rows", "0"]
    files = [
        "--data.train",
        "train.jsonl",
        "--data.test",
        "test.jsonl",
        "--data.images_root",
        str(GOLDEN / family),
    ]
    model = [
        "--model.checkpoint",
        str(GOLDEN / family / "checkpoint"),
        "--model.max_new_tokens",
        "12",
    ]
    run(monkeypatch, "predict", *model, *data, *files, "--out", "answers.jsonl")
    answers = read_lines(Path("answers.jsonl"))
    ids = load_file(GOLDEN / family / "logits.safetensors")
    tokenizer = open_checkpoint(GOLDEN / family / "checkpoint").tokenizer
    wanted = [
        tokenizer.decode(ids[f"{case['id']}.greedy_ids"]).strip()
        for case in cases
        if case["id"] in GENERATION
    ]
    assert [answer["answer"] for answer in answers] == wanted
    assert [answer["source"] for answer in answers] == [
        "test.jsonl:1",
        "test.jsonl:2",
        "test.jsonl:3",
    ]
    assert not any(answer["complete"] for answer in answers)
    output = capsys.readouterr().out
    assert f"3 answers of {GOLDEN / family / 'checkpoint'}: answers.jsonl" in output
    assert "3 of them were cut off" in output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, hybrid_checkpoint: Path) -> Path:
    """An empty folder in which a short run was finished."""
    folder = tmp_path_factory.mktemp("predict")
    recipe = {**RECIPE, "model": {**RECIPE["model"], "checkpoint": str(hybrid_checkpoint)}}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(patch, "fit", "--config", "small.yaml")
    return folder


@pytest.mark.parametrize("config", ["small.yaml", "runs/small/config.yaml"])
def test_the_best_checkpoint_answers_as_at_the_end_of_the_run(
    config: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    run(monkeypatch, "predict", "--config", config, "--ckpt_path", "best")
    kept = Path("runs") / "small" / "predictions"
    predicted = answers_in(kept / "predict.jsonl")
    assert predicted == read_lines(kept / "test_after.jsonl")
    assert read_lines(kept / "predict.jsonl") != read_lines(kept / "test_before.jsonl")
    assert "best-step" in capsys.readouterr().out


def test_without_a_checkpoint_the_base_answers(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    earlier = '{"source": "charts", "answer": "of yesterday", "complete": true}'
    Path("answers.jsonl").write_text(earlier, encoding="utf-8")
    run(monkeypatch, "predict", "--config", "small.yaml", "--out", "answers.jsonl")
    predicted = answers_in(Path("answers.jsonl"))
    assert predicted == read_lines(Path("runs/small/predictions/test_before.jsonl"))
    assert not list(Path().glob(".*partial"))


def test_test_prints_the_scores_of_the_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    run(monkeypatch, "test", "--config", "runs/small/config.yaml", "--ckpt_path", "best")
    output = capsys.readouterr().out
    after = json.loads(Path("runs/small/summary.json").read_text(encoding="utf-8"))["after"]
    printed = re.search(r"^relaxed_accuracy +([\d.]+) % +\[[\d.]+, [\d.]+\]$", output, re.M)
    assert printed is not None, output
    assert float(printed[1]) == pytest.approx(100 * after["relaxed_accuracy"], abs=0.005)


def test_test_shows_what_a_vision_tower_contributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = {
        "class_path": "dsvl_tune.datamodules.ScenesDataModule",
        "init_args": {"test_rows": 8, "questions": 4},
    }
    recipe = {"model": {"checkpoint": "embedded", "max_new_tokens": 8}, "data": scenes}
    Path("scenes.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run(monkeypatch, "test", "--config", "scenes.yaml", "--blank", "[sam, image]")
    printed = capsys.readouterr().out
    header = next(line for line in printed.splitlines() if line.startswith("figure "))
    assert re.split(r"\s{2,}", header) == ["figure", "whole images", "sam blanked", "image blanked"]
    line = next(one for one in printed.splitlines() if one.startswith("relaxed_accuracy "))
    whole, *blanked = map(float, re.findall(r"([\d.]+) %(?: {2,}| \()", line))
    assert len(blanked) == 2
    assert whole > max(blanked)
    error = refused(["test", "--config", "scenes.yaml", "--blank", "[vq]"], capsys, monkeypatch)
    assert "unknown --blank 'vq'" in error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "there is no run runs/elsewhere to keep the answers in. Give --out"),
        (
            ["--out", "no/such/answers.jsonl"],
            "--out no/such/answers.jsonl: no such folder",
        ),
        (["--out", "."], "--out .: is a folder"),
        (
            ["--out", "a.jsonl", "--ckpt_path", "best"],
            "--ckpt_path best: there is no run runs/elsewhere",
        ),
        (["--out", "a.jsonl", "--data.test_charts", "0"], "there are no test rows"),
        (["--out", "a.jsonl", "--ckpt_path", "no.ckpt"], "--ckpt_path no.ckpt: no such file"),
    ],
)
def test_bad_arguments(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "predict", "--config", "small.yaml", "--run_name", "elsewhere", *arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


QUESTIONS = {
    "q.csv": "image,question\na.png,What is it?\na.png,Why?\n",
    "q.jsonl": '{"query": "What is it?", "images": ["a.png"]}\n{"query": "Why?"}\n',
    "null.jsonl": '{"question": "What is it?", "image": "a.png", "answer": null}\n',
    "choices.tsv": "question\tA\tB\timage\nWhich?\tone\ttwo\ta.png\n",
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_without_answers_need_no_training_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "red").save("a.png")
    Path(name).write_text(QUESTIONS[name], encoding="utf-8")
    data = ["--data", "dsvl_tune.datamodules.InstructDataModule", "--data.test", name]
    model = [
        "--model.checkpoint",
        str(GOLDEN / "siglip" / "checkpoint"),
        "--model.max_new_tokens=2",
    ]
    run(monkeypatch, "predict", *data, *model, "--out", "answers.jsonl")
    answers = read_lines(Path("answers.jsonl"))
    lines = QUESTIONS[name].strip().splitlines()
    assert len(answers) == len(lines) - (not name.endswith("jsonl"))
    assert all(not answer["references"] for answer in answers)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "fit", *data, *model)
    assert stopped.value.code == 2 and "data.train: null" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch, "test", *data, *model)
    assert "no test row has an answer" in capsys.readouterr().err


def test_a_line_holds_the_question_the_answer_and_what_it_took(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    run(monkeypatch, "predict", "--config", "small.yaml", "--out", "lines.jsonl")
    lines = read_lines(Path("lines.jsonl"))
    for line in lines:
        assert len(line["images"]) == 1
        assert line["prompt"].count("<image_placeholder>") == 1
        assert line["question"] in line["prompt"]
        assert 1 <= line["tokens"] <= 4 and line["seconds"] > 0
        assert set(line["scores"]) == {"relaxed_accuracy"}


def test_a_killed_command_answers_the_rest(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed by a full disk after one batch of three; the answers that are there are kept."""
    monkeypatch.chdir(finished)
    command = ["predict", "--config", "small.yaml", "--data.eval_batch_size", "4"]
    run(monkeypatch, *command, "--out", "whole.jsonl")
    whole = answers_in(Path("whole.jsonl"))
    append = AnswerLog.append
    batches = []

    def append_one(log: AnswerLog, answers: list[Any]) -> None:
        if batches:
            raise KeyboardInterrupt
        batches.append(answers)
        append(log, answers)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerLog, "append", append_one)
        with pytest.raises(SystemExit):
            run(patch, *command, "--out", "rest.jsonl")
    assert not Path("rest.jsonl").exists()
    capsys.readouterr()
    run(monkeypatch, *command, "--out", "rest.jsonl", "--data.eval_batch_size", "3")
    assert "resumed: 4 answers were kept" in capsys.readouterr().out
    assert answers_in(Path("rest.jsonl")) == whole
    assert not list(Path().glob(".rest*"))
