"""`dsvl-tune convert` from outside: both ways, killed, refused, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsvl_tune.cli.main import main
from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS_INDEX, weight_files
from dsvl_tune.core.storage.files import sha256

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "convert", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def assert_same_bytes(one: Path, two: Path) -> None:
    """Every tensor of two checkpoints, whatever file it is in."""
    tensors = [
        {current(n): load_file(path)[n] for n, path in weight_files(folder).items()}
        for folder in (one, two)
    ]
    assert set(tensors[0]) == set(tensors[1])
    for name, tensor in tensors[0].items():
        other = tensors[1][name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert torch.equal(tensor.view(torch.uint8), other.view(torch.uint8)), name


def current(name: str) -> str:
    """A tensor's name as transformers 5 has it."""
    return name.replace("model.vision_model.vision_model.", "model.vision_model.")


def in_shards(folder: Path, base: Path, shards: int) -> Path:
    """A one-file original checkpoint split over several, neighboring tensors in different files."""
    folder.mkdir()
    for path in base.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    tensors, places = list(load_file(base / "model.safetensors").items()), {}
    for number in range(shards):
        name, part = (
            f"model-{number + 1:05}-of-{shards:05}.safetensors",
            dict(tensors[number::shards]),
        )
        save_file(part, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_there_and_back_is_equal_in_every_byte(
    family: str, shards: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = GOLDEN / family / "checkpoint"
    source = base if shards == 1 else in_shards(Path("source"), base, shards)
    assert convert(monkeypatch, str(source), "there", "--to", "transformers") == 0
    said = capsys.readouterr().out
    unused = 17 if family == "hybrid" else 13
    assert (
        f"{unused} of them have no place in transformers and are in original/unused.safetensors"
        in said
    )
    assert "equal bit for bit" in said
    assert len(load_file("there/original/unused.safetensors")) == unused
    assert len(set(weight_files(Path("there")).values())) == shards
    assert convert(monkeypatch, "there", "back", "--to", "original") == 0
    assert_same_bytes(Path("back"), source)
    for path in base.glob("*.json"):
        assert (Path("back") / path.name).read_bytes() == path.read_bytes(), path.name
    assert convert(monkeypatch, "back", "again", "--to", "transformers") == 0
    assert_same_bytes(Path("again"), Path("there"))


def test_tensors_that_the_source_lacks_are_named(
    hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(monkeypatch, str(hybrid_checkpoint), "there", "--to", "original") == 0
    said = capsys.readouterr().out
    assert "17 tensors that the original's code has but never reads" in said
    assert "its vision towers have no published name" in said
    assert convert(monkeypatch, "there", "back", "--to", "transformers") == 0
    assert_same_bytes(Path("back"), hybrid_checkpoint)


def test_what_is_written_is_described_and_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    license = Path("source") / "LICENSE"
    in_shards(Path("source"), GOLDEN / "siglip" / "checkpoint", 1)
    license.write_text("terms", encoding="utf-8")
    assert convert(monkeypatch, "source", "there", "--to", "transformers") == 0
    assert (Path("there") / "LICENSE").read_text(encoding="utf-8") == "terms"
    card = (Path("there") / "README.md").read_text(encoding="utf-8")
    for text in (
        "DeepSeek Model License",
        "no military use",
        "| 500 x 333 |",
        "truncates",
        "license_name: deepseek",
    ):
        assert text in card
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd="there", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    listed = {line.rsplit(": ", 1)[0] for line in done.stdout.splitlines()}
    files = {str(path.relative_to("there")) for path in Path("there").rglob("*") if path.is_file()}
    assert listed == files - {"SHA256SUMS"}


def test_a_full_target_is_refused_without_overwrite(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(GOLDEN / "siglip" / "checkpoint")
    Path("there").mkdir()
    (Path("there") / "mine.txt").write_text("mine", encoding="utf-8")
    assert convert(monkeypatch, source, "there", "--to", "transformers") == 2
    assert "there: exists and is not empty" in capsys.readouterr().err
    assert convert(monkeypatch, source, "there", "--to", "transformers", "--overwrite") == 2
    assert "left as it is" in capsys.readouterr().err
    assert os.listdir("there") == ["mine.txt"]
    (Path("there") / "mine.txt").unlink()
    assert convert(monkeypatch, source, "there", "--to", "transformers") == 0
    assert convert(monkeypatch, source, "there", "--to", "transformers", "--overwrite") == 0
    assert os.listdir() == ["there"]


@pytest.mark.parametrize("target", [".", "source"])
def test_the_source_is_not_written_over(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_shards(Path("source"), GOLDEN / "siglip" / "checkpoint", 1)
    before = sorted(Path().rglob("*"))
    assert convert(monkeypatch, "source", target, "--to", "original", "--overwrite") == 2
    assert "overlaps with the input" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_hashes_that_the_publisher_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = GOLDEN / "siglip" / "checkpoint"
    sums = Path("sums.txt")
    sums.write_text(
        f"{sha256(source / 'model.safetensors')}  model.safetensors\n", encoding="utf-8"
    )
    arguments = (str(source), "there", "--to", "transformers", "--sha256", str(sums))
    assert convert(monkeypatch, *arguments) == 0
    sums.write_text(f"{'0' * 64}  model.safetensors\n", encoding="utf-8")
    assert convert(monkeypatch, *arguments, "--overwrite") == 2
    error = capsys.readouterr().err
    assert "model.safetensors: SHA-256 is" in error and "0" * 64 in error
    sums.write_text("not a hash\n", encoding="utf-8")
    assert convert(monkeypatch, *arguments, "--overwrite") == 2
    assert "line 1" in capsys.readouterr().err


def test_settings_that_changed_since_are_not_put_back_silently(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of the original's settings is older than a hand-edited image size."""
    assert (
        convert(monkeypatch, str(GOLDEN / "siglip" / "checkpoint"), "there", "--to", "transformers")
        == 0
    )
    path = Path("there/preprocessor_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_size": 20}), encoding="utf-8")
    Path("there/SHA256SUMS").unlink()
    assert convert(monkeypatch, "there", "back", "--to", "original") == 2
    assert "image_settings would differ from there" in capsys.readouterr().err
    shutil.rmtree("there/original")
    assert convert(monkeypatch, "there", "back", "--to", "original") == 0
    assert (
        json.loads(Path("back/preprocessor_config.json").read_text(encoding="utf-8"))["min_size"]
        == 20
    )


# Stops in the middle of the second weight file, where the parent kills it.
SLOW = """
import sys, time
from dsvl_tune.export import write_weights as export

plain = export.save_tensors


def slow(path, tensors):
    plain(path, tensors)
    if "00002" in path.name:
        print("now", flush=True)
        time.sleep(60)


export.save_tensors = slow
sys.argv = ["dsvl-tune", "convert", "source", "there", "--to", "transformers"]
from dsvl_tune.cli.main import main

main()
"""


def test_a_killed_conversion_leaves_no_target_and_starts_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_shards(Path("source"), GOLDEN / "siglip" / "checkpoint", 3)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    assert not Path("there").exists()
    assert Path(".there.partial").exists()
    assert convert(monkeypatch, "source", "there", "--to", "transformers") == 0
    assert sorted(os.listdir()) == ["source", "there"]
    assert convert(monkeypatch, "there", "back", "--to", "original") == 0
    assert_same_bytes(Path("back"), Path("source"))
