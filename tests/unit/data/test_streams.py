"""Streams: the rows of opened files, in an order that follows from seed, position and lane."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, islice
from pathlib import Path
from typing import Any
from zlib import crc32

import lightning as L
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dsvl_tune.cli.commands.check_data import main as check_data
from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.readers.open import find_shards, open_stream
from dsvl_tune.data.readers.stream import Stream, read_shard
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.sampling.mixture_sampler import MixtureSampler
from dsvl_tune.data.sampling.mixture_schedule import Mixture
from dsvl_tune.data.sampling.stream_sampler import StreamSampler
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
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
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


@pytest.fixture(params=["jsonl", "json", "csv", "tsv", "parquet", "tar"])
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


def streamed(name: str) -> Rows:
    return ConversationRows(open_conversations(name, stream_seed=1))


def sources(records: Any) -> list[str]:
    return [record.source for record in records]


def test_streamed_rows_are_those_of_opened_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = f"{folder}/*.{folder.name}"
    opened = [[conversation] for conversation in open_conversations(pattern)]
    assert len(opened) == sum(SIZES)
    monkeypatch.chdir(folder.parent)
    for name in (pattern, str(folder), folder.name):
        assert list(streamed(name)) == opened, name
    rows = streamed(pattern)
    for start in range(SIZES[1] + 2):
        some = list(read_shard(str(folder / f"part1.{folder.name}"), start))
        assert [rows[record] for record in some] == opened[SIZES[0] + start : SIZES[0] + SIZES[1]]
    remote = list(streamed(f"file://{pattern}"))
    assert [row[0].turns for row in remote] == [row[0].turns for row in opened]
    assert remote[0][0].source.startswith("file://")


@pytest.mark.parametrize("folder", ["jsonl", "json", "csv", "tar"], indirect=True)
def test_gzipped_shards_have_the_rows_of_plain_ones(folder: Path) -> None:
    kind = folder.name
    plain = [row for (row,) in streamed(f"{folder}/*.{kind}")]
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    gzipped = [row for (row,) in streamed(f"{folder}/*.{kind}.gz")]
    assert [row.turns for row in gzipped] == [row.turns for row in plain]
    assert ".gz:" in gzipped[0].source
    shard = str(folder / f"part1.{kind}.gz")
    assert sources(read_shard(shard, 4)) == sources(read_shard(shard))[4:]


def test_a_gzipped_tar_of_the_short_name(tmp_path: Path) -> None:
    write_shard("tar", tmp_path / "rows.tar", [{"question": "q", "answer": "a"}] * 3)
    (tmp_path / "rows.tgz").write_bytes(gzip.compress((tmp_path / "rows.tar").read_bytes()))
    assert len(sources(read_shard(str(tmp_path / "rows.tgz")))) == 3


@pytest.mark.parametrize("kind", ["jsonl", "tar"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "more", "empty", "no end"])
def test_a_damaged_gzipped_shard_is_an_error(kind: str, damage: str, tmp_path: Path) -> None:
    write_shard(kind, tmp_path / f"rows.{kind}", [{"question": "q", "answer": "a"}] * 400)
    content = bytearray(gzip.compress((tmp_path / f"rows.{kind}").read_bytes()))
    damaged = {
        "cut": content[: len(content) // 2],
        "flipped": content[:-8] + bytes(byte ^ 1 for byte in content[-8:]),
        "more": content + b"more",
        "empty": b"",
        "no end": content[:-8],
    }
    (tmp_path / f"rows.{kind}.gz").write_bytes(damaged[damage])
    with pytest.raises(UserError, match=rf"rows\.{kind}\.gz: "):
        sources(read_shard(str(tmp_path / f"rows.{kind}.gz")))


def test_the_row_where_a_gzipped_shard_was_cut(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"question": str(i), "answer": "a"}) + "\n" for i in range(100_000))
    content = gzip.compress(lines.encode())
    (tmp_path / "rows.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"rows.jsonl.gz: cannot be read after row \d\d,\d+ \(Comp"):
        sources(read_shard(str(tmp_path / "rows.jsonl.gz")))


@pytest.mark.parametrize("name", ["rows.parquet.gz", "rows.gz", "rows.jsonl.bz2", "rows.zip"])
def test_what_is_not_streamed_of_compressed_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="expected text or a tar|not read by number. Unpack it"):
        streamed(str(tmp_path / name))


def test_a_stream_is_a_reader_as_files_are(lines: Path) -> None:
    files, stream = open_conversations(f"{lines}/*"), open_stream(f"{lines}/*", seed=1)
    assert stream.num_rows is None and files.reader.num_rows == sum(SIZES)
    for start in (0, 4, 5, 17, 23):
        assert sources(stream.iterate(start)) == sources(files.reader.iterate(start))
        assert stream.record(start) == files.reader.record(start)
    with pytest.raises(IndexError):
        stream.record(sum(SIZES))


def test_parquet_gives_what_datasets_streams(tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = write_shards(tmp_path, "parquet")
    theirs = load_dataset(str(folder), split="train", streaming=True).decode(False)
    ours = [record.value() for record in open_stream(str(folder), seed=1).iterate()]
    assert ours == [
        {key: value for key, value in row.items() if value is not None} for row in theirs
    ]


@pytest.mark.parametrize("window", [1, 4, 100])
def test_the_order_from_any_row(window: int, folder: Path) -> None:
    shards, total = find_shards(f"{folder}/*"), sum(SIZES)

    def stream(seed: int, counts: dict[int, int] | None = None) -> Stream:
        return Stream("rows", shards, seed, window, counts or {})

    unbroken = stream(3)
    whole = sources(islice(unbroken.shuffled(), 3 * total))
    epochs = [whole[start : start + total] for start in range(0, 3 * total, total)]
    assert all(len(set(epoch)) == total for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for start in range(2 * total):
        later = stream(3, dict(unbroken.counts))
        assert sources(islice(later.shuffled(start), total)) == whole[start : start + total]
    assert sources(islice(stream(4).shuffled(), total)) != epochs[0]


@pytest.mark.parametrize("num_lanes", [2, 3, 4])
def test_lanes_share_the_rows_of_an_epoch(num_lanes: int, lines: Path) -> None:
    """Each has its own shards, and is resumed from any of its rows."""
    shards = find_shards(f"{lines}/*")

    def lane(number: int, start: int = 0, counts: dict[int, int] | None = None) -> Any:
        stream = Stream("rows", shards, 3, window_rows=3, counts=counts or {})
        return stream.shuffled(start, number, num_lanes)

    counts = {shard: size for shard, size in enumerate(SIZES)}
    first_epoch = []
    for number in range(num_lanes):
        own = Stream("rows", shards, 3).epoch_shards(0)[number::num_lanes]
        size = sum(SIZES[shard] for shard in own)
        whole = sources(islice(lane(number), 60))
        assert {Path(source.split(":")[0]).name for source in whole[:size]} == {
            f"part{shard}.jsonl" for shard in own
        }
        first_epoch += whole[:size]
        for start in range(50):
            assert sources(islice(lane(number, start, counts), 5)) == whole[start : start + 5]
    assert len(set(first_epoch)) == len(first_epoch) == sum(SIZES)


def test_the_order_is_the_one_of_version_0_1(tmp_path: Path) -> None:
    for shard, size in enumerate(SIZES):
        rows = [{"question": f"q{shard}.{i}", "answer": "x"} for i in range(size)]
        (tmp_path / f"part{shard}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for window, checksum in ((4, 1498268083), (1000, 1650621506)):
        stream = Stream("rows", find_shards(f"{tmp_path}/*"), 3, window)
        found = [source.rpartition("/")[2] for source in sources(islice(stream.shuffled(), 100))]
        assert crc32(json.dumps(found).encode()) == checksum


def test_a_resume_opens_no_shard_that_it_is_past(lines: Path) -> None:
    """The counts known when a run stopped are enough, though the first epoch was not over."""
    shards = find_shards(f"{lines}/*")
    for stop in range(1, sum(SIZES) - 4):
        first = Stream("rows", shards, 3, window_rows=2)
        rows = first.shuffled()
        list(islice(rows, stop))
        counts = dict(first.counts)
        rest = sources(islice(rows, 3))
        gone = [f"{shard}.gone" if i in counts else shard for i, shard in enumerate(shards)]
        if sum(counts.values()) <= stop // 2 * 2:  # else rows of a counted shard are still to come
            after = Stream("rows", gone, 3, window_rows=2, counts=dict(counts))
            assert sources(islice(after.shuffled(stop), 3)) == rest
        resumed = Stream("rows", shards, 3, window_rows=2, counts=counts)
        assert sources(islice(resumed.shuffled(stop), 3)) == rest


def test_a_shard_that_changes_is_an_error(lines: Path) -> None:
    stream = Stream("rows", find_shards(f"{lines}/*"), 3)
    rows = stream.shuffled()
    list(islice(rows, sum(SIZES)))
    (lines / "part1.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 9)
    with pytest.raises(UserError, match=r"part1.jsonl: ends after 9 rows, but had 11"):
        list(islice(rows, sum(SIZES)))
    with pytest.raises(UserError, match="part2.jsonl: ends after 5 rows, but had 5"):
        list(Stream("rows", stream.shards, 3).shard_rows([2], start=5))


def test_a_stream_without_rows_has_an_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no rows"):
        next(Stream("rows", find_shards(f"{tmp_path}/*")).shuffled())


def stream_sampler(shards: list[str], rank: int, world_size: int, position: int = 0) -> Any:
    return StreamSampler(
        Stream("rows", shards, 3, window_rows=3),
        12 // world_size,
        rank=rank,
        world_size=world_size,
        position=lambda: position,
    )


def mixture_sampler(shards: list[str], rank: int, world_size: int, position: int = 0) -> Any:
    """A stream, twenty rows of text, and a stream of one shard, which every process reads."""
    return MixtureSampler(
        [Stream("rows", shards, 3, window_rows=3), 20, Stream("one", shards[1:2], 5)],
        Mixture((2.0, 1.0, 1.0), (False, True, False)),
        12 // world_size,
        seed=7,
        rank=rank,
        world_size=world_size,
        position=lambda: position,
    )


def key_of(row: Any) -> Any:
    """A row's key without what a record holds besides its source."""
    if isinstance(row, tuple):
        return row[0], row[1].source
    return row if isinstance(row, int) else row.source


def batches(sampler: Any, count: int) -> list[list[Any]]:
    return [[key_of(row) for row in batch] for batch in islice(sampler, count)]


@pytest.mark.parametrize("make", [stream_sampler, mixture_sampler])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_sampler_of_streams_resumes_with_any_number_of_processes(
    make: Any, world_size: int, lines: Path
) -> None:
    """The lanes are those of the process number that the run began with."""
    shards = find_shards(f"{lines}/*")
    started = [make(shards, rank, world_size) for rank in range(world_size)]
    parts = [batches(sampler, 12) for sampler in started]
    whole = [sorted(chain(*together), key=repr) for together in zip(*parts, strict=True)]
    assert all(len(batch) == 12 for batch in whole)
    states = [sampler.state() for sampler in started]
    for rank, sampler in enumerate(started):
        for position in range(10):
            resumed = make(shards, rank, world_size, position)
            resumed.load_state(sampler.state())
            assert batches(resumed, 3) == parts[rank][position : position + 3]
    for other in (1, 2, 3, 4):
        resumed = [make(shards, rank, other, position=5) for rank in range(other)]
        for sampler in resumed:
            for state in states:
                sampler.load_state(state)
        found = [batches(sampler, 5) for sampler in resumed]
        together = [sorted(chain(*batch), key=repr) for batch in zip(*found, strict=True)]
        assert together == whole[5:10], (world_size, other)


@pytest.mark.parametrize("make", [stream_sampler, mixture_sampler])
def test_each_process_opens_its_own_shards(make: Any, lines: Path) -> None:
    """Until the first epoch of a lane is over; the stream of one shard is read by all."""
    shards = find_shards(f"{lines}/*")
    for rank in range(2):
        own = Stream("rows", shards, 3).epoch_shards(0)[rank::2]
        missing = [
            shard if i in own else shard.replace("part", "gone") for i, shard in enumerate(shards)
        ]
        missing[1] = shards[1]  # the mixture's other stream
        sampler = make(missing, rank, 2)
        size = sum(SIZES[shard] for shard in own)
        assert len(batches(sampler, size // 6 - 1)) == size // 6 - 1
    with pytest.raises(UserError, match=r"gone\d.jsonl: cannot be read"):
        batches(make([shard.replace("part", "gone") for shard in shards], 0, 2), 1)


def test_fewer_shards_than_processes_are_read_by_all(lines: Path) -> None:
    shards = find_shards(f"{lines}/part[12]*")
    alone = stream_sampler(shards, 0, 1)
    assert alone.num_lanes == 1
    parts = [stream_sampler(shards, rank, 3) for rank in range(3)]
    assert {part.num_lanes for part in parts} == {1}
    for batch in range(6):
        together = chain(*(part.rows_at(batch) for part in parts))
        assert sorted(sources(together)) == sorted(sources(alone.rows_at(batch)))


def test_the_ratios_hold_in_every_lane(lines: Path) -> None:
    shards = find_shards(f"{lines}/*")
    for rank in range(2):
        sampler = mixture_sampler(shards, rank, 2)
        rows = list(chain(*batches(sampler, 40)))
        from_files = sum(isinstance(row, int) for row in rows)
        assert len(rows) == 240 and abs(from_files - 60) <= 1
        by_source = Counter(row[0] for row in rows if not isinstance(row, int))
        assert abs(by_source[0] - 120) <= 1 and abs(by_source[2] - 60) <= 1
    parts = [mixture_sampler(shards, rank, 2) for rank in range(2)]
    drawn = [row for part in parts for row in chain(*batches(part, 20)) if isinstance(row, int)]
    times = Counter(drawn)
    assert set(times) == set(range(20)) and max(times.values()) - min(times.values()) <= 1


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
    "no such pattern": ({"train": "{folder}/*.parquet"}, "no file has such a name"),
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
    "empty": ({"train": "{folder}/empty/*"}, "no rows"),
    "cut": ({"train": "{folder}/cut/*"}, "a.tar: damaged or cut"),
    "only opened": ({"train": "{folder}/a.arrow"}, "ends in '.arrow'. Streamed are .jsonl"),
    "no parquet": ({"train": "{folder}/pq/*"}, "a.parquet: cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_streamed(name: str, lines: Path, tiny_checkpoint: str) -> None:
    good = '{"question": "a", "answer": "b"}\n'
    cut = io.BytesIO()
    with tarfile.open(fileobj=cut, mode="w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = 3000
        tar.addfile(member, io.BytesIO(bytes(3000)))
    files = {
        "bad/a.jsonl": good + "{",
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


def trainer(**options: Any) -> L.Trainer:
    """A real trainer that runs nothing."""
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)


@pytest.mark.filterwarnings("ignore:.*max_epochs")
def test_a_trainer_without_an_end_is_an_error(lines: Path, tiny_checkpoint: str) -> None:
    data = module(lines, tiny_checkpoint)
    data.trainer = trainer(max_steps=10, val_check_interval=5, check_val_every_n_epoch=None)
    data.setup("fit")
    assert len(next(iter(data.train_dataloader())).sources) == 8
    for options in ({"val_check_interval": 5}, {"max_steps": 10}):
        data.trainer = trainer(**options)
        with pytest.raises(UserError, match="length of a streamed epoch is unknown"):
            data.train_dataloader()


def test_resuming_on_other_shards_is_an_error(lines: Path, tiny_checkpoint: str) -> None:
    data = module(lines, tiny_checkpoint)
    fewer = module(lines, tiny_checkpoint, train=f"{lines}/part0.jsonl")
    for one in (data, fewer):
        one.setup("fit")
    with pytest.raises(UserError, match="with shards 4, now it is 1"):
        fewer.train_dataloader().load_state_dict(data.train_dataloader().state_dict())


MIXED: dict[str, dict[str, Any]] = {
    "without ratios": {},
    "by length": {"ratios": {"far": 1, "near": 1}, "length_grouped": True},
    "with replacement": {"ratios": {"far": 1, "near": 1}, "with_replacement": ("far",)},
}


@pytest.mark.parametrize("name", MIXED)
def test_what_a_mixture_needs_of_a_stream(name: str, lines: Path, tiny_checkpoint: str) -> None:
    data: Any = {
        "far": module(lines, tiny_checkpoint),
        "near": InstructDataModule(f"{lines}/part1.jsonl", validation_rows=0),
    }
    mixed = MixtureDataModule(data, checkpoint=tiny_checkpoint, **MIXED[name])
    with pytest.raises(UserError, match="'far' is streamed"):
        mixed.setup("fit")


def test_a_stream_is_a_source_of_a_mixture(lines: Path, tiny_checkpoint: str) -> None:
    data: Any = {
        "far": module(lines, tiny_checkpoint),
        "near": InstructDataModule(f"{lines}/part1.jsonl", validation_rows=0),
    }
    mixed = MixtureDataModule(
        data,
        ratios={"far": 2, "near": 1},
        text_only=("far",),
        homogeneous_steps=True,
        loss_weights={"far": 0.5},
        checkpoint=tiny_checkpoint,
        batch_size=4,
        num_workers=2,
    )
    mixed.setup("fit")
    assert mixed.rows("train").num_rows is None
    kinds = []
    for batch in islice(mixed.train_dataloader(), 12):
        weights = set(batch.loss_weights.flatten().tolist()) - {0.0}
        assert weights in ({0.5}, {1.0})
        kinds.append(weights == {0.5})
    assert sum(kinds) == 8
    assert mixed.majority_baseline() == {} and list(mixed.rows("validation")) == []
    with pytest.raises(UserError, match="model.feature_cache"):
        mixed.every_row()
    image_rows = module(write_shards(lines, "tar"), tiny_checkpoint)
    wrong = MixtureDataModule(
        {"far": image_rows},
        ratios={"far": 1},
        text_only=("far",),
        checkpoint=tiny_checkpoint,
    )
    wrong.setup("fit")
    with pytest.raises(UserError, match="text_only names its source 'far'"):
        list(islice(wrong.train_dataloader(), 5))


def test_streamed_rows_are_packed_too_and_are_not_known_beforehand(
    lines: Path, tiny_checkpoint: str
) -> None:
    data = module(lines, tiny_checkpoint, batch_size=4, pack_tokens=10_000)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len(batch.sources) == 4 and len(batch.input_ids) == 1
    with pytest.raises(UserError, match=r"model.feature_cache: with data.streaming"):
        data.every_row()


def test_remote_held_out_rows_are_read_into_memory(lines: Path, tiny_checkpoint: str) -> None:
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
        remote = [record.value() for record in open_stream(url, seed=1).iterate(2)]
        server.shutdown()
    assert remote == [record.value() for record in read_shard(str(lines / "part1.jsonl"), 2)]


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
