"""`check-data` from outside: a file with a row of every fault, its report, its clean part."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from dsvl_tune.cli.commands.check_data import main
from dsvl_tune.core.errors import UserError
from dsvl_tune.data.validation.leakage import leaks
from dsvl_tune.data.validation.perceptual_hash import perceptual_hash
from dsvl_tune.data.validation.report import SplitReport, error_kind
from dsvl_tune.data.validation.row_stats import RowStats
from dsvl_tune.datamodules import InstructDataModule


def picture(seed: int) -> Image.Image:
    image = Image.new("RGB", (360, 240), "white")
    draw, chance = ImageDraw.Draw(image), random.Random(seed)
    for x in range(0, 360, 50):
        draw.rectangle(
            [x, chance.randint(5, 230), x + 40, 240], fill=(chance.randint(0, 200), 30, 90)
        )
    return image


def row(question: str, answer: str = "yes", image: str | None = None) -> dict[str, Any]:
    return {"question": question, "answer": answer, "image": image}


GOOD = [row("<image>a?", image="0.png"), row("Hi"), row("See \\[IMG]"), row("b?", image="1.png")]
FAULTS = {
    row("c?", " ")["question"]: row("c?", " "),
    "missing": row("d?", image="none.png"),
    "broken": row("e?", image="broken.png"),
    "outside": row("f?", image="../x.png"),
    "literal": row("<image_placeholder>?"),
    "long": row("g " * 600),
    "format": {"instruction": "x"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(3):
        picture(i).save(data / f"{i}.png")
    picture(0).resize((240, 160)).save(data / "copy.jpg", quality=80)
    (data / "broken.png").write_bytes((data / "0.png").read_bytes()[:100])
    rows = [GOOD[0], *FAULTS.values(), *GOOD[1:]]
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{no json\n")
    held = [row("A!", image="copy.jpg"), row("z?", image="2.png"), row("hi!"), row("Hello")]
    (data / "test.jsonl").write_text("\n".join(map(json.dumps, held)))
    return data


def arguments(folder: Path, checkpoint: Path, *more: str) -> list[str]:
    data = [
        "--data",
        "dsvl_tune.datamodules.InstructDataModule",
        "--data.train",
        str(folder / "train.jsonl"),
    ]
    held = ["--data.test", str(folder / "test.jsonl")]
    return ["--model.checkpoint", str(checkpoint), *data, *held, *more]


def test_every_fault_is_reported_with_its_place(
    folder: Path, hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="8 rows would stop fit"):
        main(arguments(folder, hybrid_checkpoint, "--json", "-"))
    report = json.loads(capsys.readouterr().out)
    train, test = report["splits"]["train"], report["splits"]["test"]
    messages = [message for kind in train["errors"].values() for message in kind]
    assert len(train["errors"]) == len(messages) == 8 and not test["errors"]
    lines = sorted(int(message.split("train.jsonl:")[1].split(":")[0]) for message in messages)
    assert lines == [2, 3, 4, 5, 6, 7, 8, 12]
    assert (
        train["conversations"] == 12
        and train["with_images"] == 2
        and train["images"] == {"0": 2, "1": 2}
    )
    assert sum(train["histogram"]) == 4 and train["literal_placeholders"] == {"[IMG]": 1}
    assert report["leaks"] == {"train / test": {"image": 1, "image and question": 1, "question": 1}}


def test_fix_writes_the_clean_rows_and_what_was_left_out(
    folder: Path, hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "clean", tmp_path / "report.json"
    with pytest.raises(UserError):
        main(arguments(folder, hybrid_checkpoint, "--fix", str(out), "--json", str(saved)))
    printed = capsys.readouterr().out
    assert "train: 1 x turn N (assistant): empty" in printed and "4 of 12 rows" in printed
    assert [
        json.loads(line) for line in (out / "train/train.jsonl").read_text().splitlines()
    ] == GOOD
    assert len(json.loads((out / "left_out.json").read_text())) == 8
    assert not list(tmp_path.glob(".*partial"))
    main(
        [
            *arguments(folder, hybrid_checkpoint, "--data.images_root", str(folder)),
            "--data.train",
            str(out / "train/train.jsonl"),
            "--data.test",
            str(out / "test/test.jsonl"),
        ]
    )
    assert "no errors" in capsys.readouterr().out
    with pytest.raises(UserError, match="there are no validation rows"):
        main(
            [
                *arguments(
                    folder,
                    hybrid_checkpoint,
                    "--data.images_root",
                    str(folder),
                    "--data.validation_rows",
                    "0",
                ),
                "--data.train",
                str(out / "train/train.jsonl"),
                "--data.test",
                str(out / "test/test.jsonl"),
            ]
        )
    data = InstructDataModule(
        str(out / "train/train.jsonl"),
        images_root=str(folder),
        checkpoint=str(hybrid_checkpoint),
        validation_rows=0,
    )
    data.setup("fit")
    assert len(data.rows("train")) == 4
    with pytest.raises(UserError, match="exists. Give a new folder"):
        main(arguments(folder, hybrid_checkpoint, "--fix", str(out)))


def test_json_on_the_output_is_json_alone(
    folder: Path, hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where set-up prints something about a large file, and where rows are written."""
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, GOOD)))
    large = ["--data.check_rows", "2", "--data.validation", str(folder / "test.jsonl")]
    main(
        arguments(
            folder, hybrid_checkpoint, *large, "--json", "-", "--fix", str(tmp_path / "clean")
        )
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out)["splits"]["train"]["conversations"] == 4
    assert "4 of 4 rows" in printed.err


def test_fix_names_the_images_root(
    folder: Path, hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, GOOD)))
    root, out = ["--data.images_root", str(folder)], tmp_path / "clean"
    main(arguments(folder, hybrid_checkpoint, *root, "--data.train", str(rows), "--fix", str(out)))
    assert f"rows.jsonl: 4 of 4 rows; its images_root is {folder}\n" in capsys.readouterr().out


def test_a_stream_is_not_written(folder: Path, hybrid_checkpoint: Path, tmp_path: Path) -> None:
    stream = ["--data.streaming", "true", "--data.validation", str(folder / "test.jsonl")]
    with pytest.raises(UserError, match="--fix: the rows of 'train' are not opened from files"):
        main(arguments(folder, hybrid_checkpoint, *stream, "--fix", str(tmp_path / "clean")))


def test_error_kinds_leave_out_what_differs_between_rows() -> None:
    messages = [
        "/data/a.jsonl:7: image /data/a.png: no such file. Check.",
        "b/c.json: row 8: image d/e.png: no such file.",
    ]
    assert {error_kind(message) for message in messages} == {"image …: no such file"}
    assert (
        error_kind("x/y.csv: row 9: turn 4 (assistant): empty. Expected")
        == "turn N (assistant): empty"
    )


def test_hashes_find_the_same_picture_and_no_other() -> None:
    def stats(image: Image.Image, name: str) -> RowStats:
        hashes = (perceptual_hash(image),)
        return RowStats(name, images=(name,), hashes=hashes, question="q", tokens=5)

    pictures = [picture(seed) for seed in range(40)]
    train, held_out = SplitReport(100), SplitReport(100)
    for seed, image in enumerate(pictures):
        train.add(stats(image, str(seed)))
    for seed in range(40, 60):
        held_out.add(stats(picture(seed), "x"))
    assert leaks(train, held_out)["image"] == 0
    for image in pictures[:20]:
        smaller = image.resize((250, 160)).convert("L").convert("RGB")
        held_out.add(stats(smaller, "x"))
    found = leaks(train, held_out)
    # Of 20, made gray and smaller.
    assert found["image"] >= 18 and found["image and question"] == found["image"]
