"""Streams: the rows of opened files, in an order that follows from seed and position, whatever was read before."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dsvl_tune.cli.commands.check_data import main as check_data
from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.conversations import open_conversations
from dsvl_tune.data.readers import stream as streams
from dsvl_tune.data.readers.remote import read_shard
from dsvl_tune.data.readers.stream import Stream, StreamedRows, find_shards
from dsvl_tune.datamodules import InstructDataModule, MixtureDataModule

pytestmark = pytest.mark.usefixtures("datasets_cache")
SIZES = (5, 11, 1, 7)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9 + number), (number, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(kind: str, path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of question, answer and, of odd number, an image."""
    if kind == "jsonl":
        lines = [json.dumps(row) for row in rows]
        path.write_text("\ufeff" + "\r\n\n".join(lines), encoding="utf-8")
    elif kind in ("csv", "tsv"):
        mark = {"csv": ",", "tsv": "\t"}[kind]
        lines = [f'"{row["question"]}\n""x"""{mark}{row["answer"]}\n' for row in rows]
        path.write_text(f"question{mark}answer\n" + "\n".join(lines))
    elif kind == "parquet":
        schema = pa.schema([("question", pa.string()), ("answer", pa.string())])
        image = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        shown = [
            {**row, "image": {"bytes": png(i), "path": None} if i % 2 else None}
            for i, row in enumerate(rows)
        ]
        pq.write_table(pa.Table.from_pylist(shown, schema.append(image)), path, row_group_size=3)
    else:
        with tarfile.open(path, "w") as tar:
            for i, row in enumerate(rows):
                files = {"png": png(i)} if i % 2 else {}
                for ending, content in {**files, "json": json.dumps(row).encode()}.items():
                    member = tarfile.TarInfo(f"./{i:03d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(params=["jsonl", "csv", "tsv", "parquet", "tar"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_shards(tmp_path, request.param)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_shards(tmp_path, "jsonl")


def write_shards(root: Path, kind: str) -> Path:
    folder = root / kind  # the name of one of datasets' own loaders
    folder.mkdir()
    for shard, size in enumerate(SIZES):
        rows = [{"question": f"q{shard}.{i}", "answer": f"00{i}"} for i in range(size)]
        write_shard(kind, folder / f"part{shard}.{kind}", rows)
    return folder


def test_streamed_rows_are_those_of_opened_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = f"{folder}/*.{folder.name}"
    opened = [[conversation] for conversation in open_conversations(pattern)]
    assert len(opened) == sum(SIZES)
    monkeypatch.chdir(folder.parent)
    for name in (pattern, str(folder), folder.name):
        rows = StreamedRows(Stream(find_shards(name)))
        assert [rows[record] for record in rows.records()] == opened, name
    for skip in range(SIZES[1] + 2):
        some = list(read_shard(str(folder / f"part1.{folder.name}"), skip))
        assert [rows[record] for record in some] == opened[SIZES[0] + skip : SIZES[0] + SIZES[1]]
    far = StreamedRows(Stream(find_shards(f"file://{pattern}")))
    found = [far[record] for record in far.records()]
    assert [row[0].turns for row in found] == [row[0].turns for row in opened]
    assert found[0][0].source.startswith("file://")


def test_parquet_gives_what_datasets_streams(tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = write_shards(tmp_path, "parquet")
    theirs = load_dataset(str(folder), split="train", streaming=True).decode(False)
    ours = [
        record.value() for record in Stream(find_shards(str(folder))).in_order(range(len(SIZES)))
    ]
    assert ours == [
        {key: value for key, value in row.items() if value is not None} for row in theirs
    ]


@pytest.mark.parametrize("window", [1, 4, 100])
def test_the_order_from_any_row(window: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WINDOW", window)
    shards, total = find_shards(f"{folder}/*"), sum(SIZES)
    unbroken = Stream(shards, seed=3)
    whole = [record.source for record in islice(unbroken.rows_from(0), 3 * total)]
    epochs = [whole[start : start + total] for start in range(0, 3 * total, total)]
    assert all(len(set(epoch)) == total for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    for start in range(2 * total):
        later = Stream(shards, 3, dict(unbroken.counts))
        assert [record.source for record in islice(later.rows_from(start), total)] == whole[
            start : start + total
        ]
    assert [one.source for one in islice(Stream(shards, 4).rows_from(0), total)] != epochs[0]


def test_a_resume_opens_no_shard_that_it_is_past(
    lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts that were known when it stopped are enough, though the first epoch had not come to its end."""
    monkeypatch.setattr(streams, "WINDOW", 2)
    shards = find_shards(f"{lines}/*")
    for stop in range(1, sum(SIZES) - 4):
        first = Stream(shards, 3)
        rows = first.rows_from(0)
        list(islice(rows, stop))
        counts = dict(first.counts)
        rest = [record.source for record in islice(rows, 3)]
        after = Stream(
            [shard if i not in counts else f"{shard}.gone" for i, shard in enumerate(shards)],
            3,
            counts,
        )
        behind = (
            sum(counts.values()) <= stop // 2 * 2
        )  # else rows of a counted shard are still to come
        if behind:
            assert [record.source for record in islice(after.rows_from(stop), 3)] == rest
        assert [
            record.source for record in islice(Stream(shards, 3, counts).rows_from(stop), 3)
        ] == rest


def test_a_shard_that_changes_is_told(lines: Path) -> None:
    stream = Stream(find_shards(f"{lines}/*"), 3)
    rows = stream.rows_from(0)
    list(islice(rows, sum(SIZES)))
    (lines / "part1.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 9)
    with pytest.raises(
        UserError, match=r"part1.jsonl: ends after 9 rows, but had 11 when it was read before"
    ):
        list(islice(rows, sum(SIZES)))
    with pytest.raises(UserError, match="part2.jsonl: ends after 5 rows, but had 5"):
        list(Stream(stream.shards, 3).in_order([2], skip=5))


def module(folder: Path, checkpoint: str, **options: Any) -> InstructDataModule:
    settings: dict[str, Any] = {
        "streaming": True,
        "validation_rows": 0,
        "checkpoint": checkpoint,
        **options,
    }
    return InstructDataModule(settings.pop("train", f"{folder}/part*"), **settings)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing held out": (
        {"validation_rows": 5},
        "is streamed, so none of its rows can be held out",
    ),
    "no such file": ({"train": "{folder}/nothing.jsonl"}, "nothing.jsonl: cannot be read"),
    "no such pattern": ({"train": "{folder}/*.parquet"}, "no file is named so"),
    "no such folder": (
        {"train": "{folder}/nothing"},
        "nothing: cannot be read: there is no such file or folder",
    ),
    "no such split": ({"train": "{folder}#other"}, "no split 'other'. It has train"),
    "another kind": ({"train": "{folder}/bad*"}, "its name ends in 'nothing'. Streamed are .jsonl"),
    "a protocol": ({"train": "nonsense://x/*.jsonl"}, "nonsense://x/.*: cannot be read .*nonsense"),
    "a protocol that needs a package": (
        {"train": "s3://x/y.jsonl"},
        "s3://x/y.jsonl: cannot be read",
    ),
    "no protocol": (
        {"train": "nonsense://x/y.jsonl"},
        "nonsense://x/y.jsonl: cannot be read .*nonsense",
    ),
    "no server": (
        {"train": "http://127.0.0.1:9/y.jsonl"},
        "http://127.0.0.1:9/y.jsonl: cannot be read",
    ),
    "held out is more": (
        {"validation": "file://{folder}/part1*", "check_rows": 9},
        r"more rows than check_rows \(9\)",
    ),
    "a bad row": ({"train": "{folder}/bad/*"}, "a.jsonl:2: not JSON"),
    "a list": ({"train": "{folder}/list/*"}, "a.json: a JSON list, which is read whole"),
    "empty": ({"train": "{folder}/empty/*"}, "no rows"),
    "cut": ({"train": "{folder}/cut/*"}, "a.tar: cannot be read"),
    "no parquet": ({"train": "{folder}/pq/*"}, "a.parquet: cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_streamed_is_told(name: str, lines: Path, tiny_checkpoint: str) -> None:
    good = '{"question": "a", "answer": "b"}\n'
    cut = io.BytesIO()
    with tarfile.open(fileobj=cut, mode="w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = 3000
        tar.addfile(member, io.BytesIO(bytes(3000)))
    files = {
        "bad/a.jsonl": good + "{",
        "list/a.json": f"[{good}]",
        "empty/a.jsonl": "\n",
        "pq/a.parquet": "PAR1",
    }
    for file, content in files.items():
        (lines / file).parent.mkdir()
        (lines / file).write_text(content)
    (lines / "cut").mkdir()
    (lines / "cut/a.tar").write_bytes(cut.getvalue()[:1500])
    options, words = BAD[name]
    given = {
        key: value.format(folder=lines) if isinstance(value, str) else value
        for key, value in options.items()
    }
    with pytest.raises(UserError, match=words):
        module(lines, tiny_checkpoint, **given).setup("fit")


def test_what_a_run_must_have(lines: Path, tiny_checkpoint: str) -> None:
    data = module(lines, tiny_checkpoint)
    data.setup("fit")
    for steps, interval in ((-1, 10), (10, 1.0)):
        data.trainer = SimpleNamespace(max_steps=steps, val_check_interval=interval)  # type: ignore[assignment]
        with pytest.raises(UserError, match="nobody knows how many rows an epoch has"):
            data.train_dataloader()
    data.trainer = None
    mixed = MixtureDataModule({"a": data}, checkpoint=tiny_checkpoint)
    with pytest.raises(UserError, match="'a' is streamed"):
        mixed.setup("fit")
    loader = module(lines, tiny_checkpoint, train=f"{lines}/part0.jsonl")
    loader.setup("fit")
    with pytest.raises(UserError, match="stopped with shards 4, now it is 1"):
        loader.train_dataloader().load_state_dict(data.train_dataloader().state_dict())


def test_streamed_rows_are_packed_too_and_have_no_end_to_store(
    lines: Path, tiny_checkpoint: str
) -> None:
    data = module(lines, tiny_checkpoint, batch_size=4, pack_tokens=10_000)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len(batch.sources) == 4 and len(batch.input_ids) == 1
    with pytest.raises(UserError, match=r"with data.streaming nobody knows every image"):
        data.every_row()


def test_held_out_rows_that_are_far_are_read(lines: Path, tiny_checkpoint: str) -> None:
    data = module(
        lines,
        tiny_checkpoint,
        validation=f"file://{lines}/part1.jsonl",
        test=f"{lines}/part3.jsonl",
    )
    data.setup("fit")
    assert [len(data.rows(split)) for split in ("validation", "test")] == [SIZES[1], SIZES[3]]
    batch = next(iter(data.val_dataloader()[0]))
    assert batch.sources[0] == f"file://{lines}/part1.jsonl:1"
    assert data.majority_baseline()


def test_rows_come_over_http(lines: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(lines))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/part1.jsonl"
        far = [record.value() for record in Stream(find_shards(url)).in_order([0], skip=2)]
        server.shutdown()
    assert far == [record.value() for record in read_shard(str(lines / "part1.jsonl"), 2)]


def test_check_data_reads_all_of_a_stream(
    lines: Path, hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (lines / "part3.jsonl").open("a") as file:
        file.write('\n{no json\n{"question": "a"}\n')
    source = ["--data", "dsvl_tune.datamodules.InstructDataModule", "--data.train", f"{lines}/*"]
    keys = ["--data.streaming", "true", "--data.validation_rows", "0"]
    with pytest.raises(UserError, match="2 rows would stop fit"):
        check_data(
            [
                "--model.checkpoint",
                str(hybrid_checkpoint),
                *source,
                *keys,
                "--json",
                "-",
            ]
        )
    train = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert train["conversations"] == sum(SIZES) + 2 and len(train["errors"]) == 2
