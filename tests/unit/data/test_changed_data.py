"""A resumed run is refused if rows or pictures are others than when it began, wherever they are."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers import checksum
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.datamodules.held_out_sets import HeldOutFile

pytestmark = pytest.mark.usefixtures("datasets_cache")


def bmp(color: str) -> bytes:
    """A picture whose size tells nothing."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), color).save(buffer, "BMP")
    return buffer.getvalue()


def questions(count: int = 4) -> list[dict[str, Any]]:
    return [{"question": f"q{i}", "answer": f"a{i}", "image": f"{i}.bmp"} for i in range(count)]


def write_files(folder: Path, color: str) -> str:
    for i in range(4):
        (folder / f"{i}.bmp").write_bytes(bmp(color if i == 2 else "red"))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, questions())))
    return str(folder / "rows.jsonl")


def write_tar(folder: Path, color: str) -> str:
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for i, row in enumerate(questions()):
            files = {"bmp": bmp(color if i == 2 else "red"), "json": json.dumps(row).encode()}
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{i}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(folder / "rows.tar")


def table(color: str) -> pa.Table:
    rows = [
        {**row, "image": {"bytes": bmp(color if i == 2 else "red"), "path": None}}
        for i, row in enumerate(questions())
    ]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("question", pa.string()), ("answer", pa.string()), ("image", image)]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def write_parquet(folder: Path, color: str) -> str:
    pq.write_table(table(color), folder / "rows.parquet", compression="none")
    return str(folder / "rows.parquet")


def write_arrow(folder: Path, color: str) -> str:
    with (
        pa.OSFile(str(folder / "rows.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table(color).schema) as writer,
    ):
        writer.write_table(table(color))
    return str(folder / "rows.arrow")


def write_saved(folder: Path, color: str) -> str:
    import datasets

    shutil.rmtree(folder / "saved", ignore_errors=True)
    datasets.Dataset(table(color)).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


KINDS: list[Callable[[Path, str], str]] = [
    *(write_files, write_tar, write_parquet, write_arrow, write_saved),
]


def loader(name: str, checkpoint: str, **options: Any) -> Any:
    given: dict[str, Any] = {"validation_rows": 0, "checkpoint": checkpoint, **options}
    data = InstructDataModule(name, **given)
    data.setup("fit")
    return data.train_dataloader()


@pytest.mark.parametrize("write", KINDS)
def test_a_picture_replaced_by_one_of_the_same_size(
    write: Callable[[Path, str], str], tmp_path: Path, tiny_checkpoint: str
) -> None:
    state = loader(write(tmp_path, "blue"), tiny_checkpoint).state_dict()
    loader(write(tmp_path, "blue"), tiny_checkpoint).load_state_dict(state)
    name = write(tmp_path, "green")
    with pytest.raises(UserError, match="resuming: .*content of the (rows|pictures)"):
        loader(name, tiny_checkpoint).load_state_dict(state)


def test_data_may_be_copied(tmp_path: Path, tiny_checkpoint: str) -> None:
    """Times and folders of a small data set mean nothing."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    state = loader(write_files(folders[0], "blue"), tiny_checkpoint).state_dict()
    name = write_files(folders[1], "blue")
    for file in folders[1].iterdir():
        os.utime(file, (1, 1))
    loader(name, tiny_checkpoint).load_state_dict(state)


@pytest.mark.parametrize("options", [{"check_rows": 2}, {"streaming": True}])
def test_rows_that_are_not_read_before(
    options: dict[str, Any], tmp_path: Path, tiny_checkpoint: str
) -> None:
    state = loader(write_files(tmp_path, "blue"), tiny_checkpoint, **options).state_dict()
    name = write_files(tmp_path, "green")
    with pytest.raises(UserError, match="content of the pictures"):
        loader(name, tiny_checkpoint, **options).load_state_dict(state)


@pytest.mark.parametrize("write", [write_tar, write_parquet])
def test_shards_of_a_stream(
    write: Callable[[Path, str], str], tmp_path: Path, tiny_checkpoint: str
) -> None:
    options = {"streaming": True}
    state = loader(write(tmp_path, "blue"), tiny_checkpoint, **options).state_dict()
    name = write(tmp_path, "green")
    with pytest.raises(UserError, match="content of the rows"):
        loader(name, tiny_checkpoint, **options).load_state_dict(state)


def test_held_out_pictures(tmp_path: Path, tiny_checkpoint: str) -> None:
    """They pick the best checkpoint, and were scored before training."""
    (tmp_path / "held").mkdir()
    train = write_tar(tmp_path, "red")
    options = {"test": write_files(tmp_path / "held", "blue")}
    state = loader(train, tiny_checkpoint, **options).state_dict()
    write_files(tmp_path / "held", "green")
    with pytest.raises(UserError, match="content of the held-out rows"):
        loader(train, tiny_checkpoint, **options).load_state_dict(state)


def test_held_out_texts(tmp_path: Path, tiny_checkpoint: str) -> None:
    train, text = write_tar(tmp_path, "red"), tmp_path / "prose.txt"
    text.write_text("What a model reads before it is trained.")
    options = {"heldout": {"prose": HeldOutFile(str(text))}}
    state = loader(train, tiny_checkpoint, **options).state_dict()
    loader(train, tiny_checkpoint, **options).load_state_dict(state)
    text.write_text("What a model reads before it is learned.")
    with pytest.raises(UserError, match="content of the held-out rows"):
        loader(train, tiny_checkpoint, **options).load_state_dict(state)


def test_of_large_data_sizes_and_times_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "MAX_BYTES", 1000)
    write_files(tmp_path, "blue")
    paths = sorted(tmp_path.glob("*.bmp"))
    before = checksum.files_checksum(paths)
    assert checksum.files_checksum(paths) == before
    os.utime(paths[2], (1, 1))
    assert checksum.files_checksum(paths) != before
    batches = table("blue").to_batches()
    sampled = checksum.buffers_checksum(batches, table("blue").nbytes)
    assert sampled == checksum.buffers_checksum(batches, table("blue").nbytes)
