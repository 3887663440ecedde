"""`check-data` from outside: a file with a row of every fault, its report, its clean part."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from dsvl_tune.cli.commands.check_data import main
from dsvl_tune.core.errors import UserError
from dsvl_tune.data.validation.leakage import Leaks, leaks
from dsvl_tune.data.validation.perceptual_hash import perceptual_hash, thumbnail
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
    pairs = [[str(folder / "copy.jpg"), str(folder / "0.png")]]
    assert report["leaks"] == {
        "train / test": {"image": 1, "image and question": 1, "question": 1, "pairs": pairs}
    }


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
    with pytest.raises(UserError, match="exists. Give a new name"):
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


def invoice(seed: int) -> Image.Image:
    """A page of which little more than the digits differs."""
    chance = random.Random(seed)
    image = Image.new("RGB", (800, 1100), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(18)
    lines = [f"INVOICE {chance.randint(1000, 9999)}", f"Date 2026-0{chance.randint(1, 9)}-11"]
    lines += [f"Widget {i}      {chance.randint(100, 99999) / 100:8.2f}" for i in range(8)]
    for place, line in enumerate(lines):
        draw.text((60, 60 + 60 * place), line, fill="black", font=font)
    return image


def report_of(images: dict[str, Image.Image]) -> SplitReport:
    report = SplitReport(100)
    for name, image in images.items():
        hashes = (perceptual_hash(image),)
        report.add(RowStats(name, images=(name,), hashes=hashes, question="q", tokens=5))
    return report


def found_leaks(train: dict[str, Image.Image], held_out: dict[str, Image.Image]) -> Leaks:
    pictures = {**train, **held_out}
    return leaks(
        report_of(train),
        report_of(held_out),
        lambda wanted: {name: thumbnail(pictures[name]) for name in wanted},
    )


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize("draw", [picture, invoice])
def test_different_pictures_are_no_pair(draw: Callable[[int], Image.Image]) -> None:
    """Also not 60 invoices: their hashes are alike, their pixels are not."""
    train = {str(seed): draw(seed) for seed in range(40)}
    found = found_leaks(train, {f"x{seed}": draw(seed) for seed in range(40, 60)})
    assert found.image == 0 and found.pairs == []


@pytest.mark.parametrize("draw", [picture, invoice])
def test_the_same_picture_is_a_pair(draw: Callable[[int], Image.Image]) -> None:
    """Smaller, in gray, or as a JPEG of low quality."""
    train = {str(seed): draw(seed) for seed in range(20)}
    held_out = {}
    for name, image in train.items():
        width, height = image.size
        held_out[f"small {name}"] = image.resize((width * 5 // 8, height * 5 // 8)).convert("L")
        held_out[f"jpeg {name}"] = as_jpeg(image, 40)
    found = found_leaks(train, held_out)
    assert found.pairs == [(own, own.split()[1]) for own in held_out]
    assert found.image == found.image_and_question == 40


def test_empty_pages_are_no_pair() -> None:
    pages = {name: Image.new("RGB", (80, 90), "white") for name in ("a", "b")}
    assert found_leaks({"a": pages["a"]}, {"b": pages["b"]}).pairs == []


@pytest.mark.usefixtures("datasets_cache")
def test_pairs_of_pictures_in_a_stream_are_named_by_their_rows(
    tmp_path: Path, hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, size in (("train", (360, 240)), ("test", (240, 160))):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            for number in range(3):
                buffer = io.BytesIO()
                picture(number if split == "train" else 2 * number).resize(size).save(buffer, "PNG")
                files = {"png": buffer.getvalue(), "json": json.dumps(row("q")).encode()}
                for ending, content in files.items():
                    member = tarfile.TarInfo(f"{number}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    data = ["--data", "dsvl_tune.datamodules.InstructDataModule", "--data.validation_rows", "0"]
    names = [f"--data.{split}={tmp_path / split}.tar" for split in ("train", "test")]
    arguments = ["--model.checkpoint", str(hybrid_checkpoint), *data, *names]
    stream = ["--data.streaming", "true", "--trainer.max_steps", "2"]
    for more in ([], [*stream, "--trainer.val_check_interval", "1"]):
        with suppress(UserError):  # there are no validation rows
            main([*arguments, *more, "--json", str(tmp_path / f"report{len(more)}.json")])
        report = json.loads((tmp_path / f"report{len(more)}.json").read_text())
        assert report["leaks"]["train / test"]["pairs"] == [
            [f"{tmp_path}/test.tar: sample 1, image 1", f"{tmp_path}/train.tar: sample 1, image 1"],
            [f"{tmp_path}/test.tar: sample 2, image 1", f"{tmp_path}/train.tar: sample 3, image 1"],
        ]
