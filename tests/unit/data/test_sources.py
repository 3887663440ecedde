"""Files, folders and tables of rows: the same conversations from every format; damaged files."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.readers import indexed_file, json_array, lines
from dsvl_tune.data.readers.indexed_file import IndexedFile, mapped
from dsvl_tune.data.readers.json_array import array_values
from dsvl_tune.data.readers.lines import line_blocks
from dsvl_tune.data.readers.open import open_rows

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (9, 9), color).save(folder / f"{name}.png")
    return folder


def read(name: Path | str, **options: Any) -> list[Conversation]:
    return list(open_conversations(str(name), **options))


def streamed(path: Path) -> list[Conversation]:
    rows = ConversationRows(open_conversations(str(path), stream_seed=1))
    return [one for row in rows for one in row]


def content_of(conversation: Conversation) -> list[Any]:
    """Text parts, and the color of each image in its place."""
    parts = [part for turn in conversation.turns for part in turn.parts if part != ""]
    return [p if isinstance(p, str) else load_image(p, "x").getpixel((4, 4)) for p in parts]


RED, BLUE = (255, 0, 0), (0, 0, 255)
ROWS = [
    {"question": "Color?", "answer": "red", "image": "a.png"},
    {"question": "007", "answer": "NA", "image": None},
]
CONTENT = [[RED, "Color?", "red"], ["007", "NA"]]


def as_jsonl(root: Path) -> Path:
    (root / "rows.jsonl").write_text(
        "\ufeff" + "\r\n".join(map(json.dumps, ROWS)), encoding="utf-8"
    )
    return root / "rows.jsonl"


def as_json(root: Path) -> Path:
    (root / "rows.json").write_text(json.dumps(ROWS, indent=2))
    return root / "rows.json"


def as_csv(root: Path) -> Path:
    (root / "rows.csv").write_text('question,answer,image\n"Color?",red,a.png\n\n007,NA,\n')
    return root / "rows.csv"


def as_tsv(root: Path) -> Path:
    (root / "rows.tsv").write_text("question\tanswer\timage\nColor?\tred\ta.png\n007\tNA\t")
    return root / "rows.tsv"


def as_arrow_file(root: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with (
        pa.OSFile(str(root / "rows.feather"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    return root / "rows.feather"


def as_parquet(root: Path) -> Path:
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), root / "rows.parquet")
    return root / "rows.parquet"


def image_set(root: Path, kind: str) -> Any:
    """A datasets.Dataset with an image column that stores bytes or paths."""
    import datasets

    stored, path = (
        ((root / "a.png").read_bytes(), None) if kind == "bytes" else (None, str(root / "a.png"))
    )
    rows = [{**ROWS[0], "image": {"bytes": stored, "path": path}}, ROWS[1]]
    features = {
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "image": datasets.Image(),
    }
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def as_bytes_parquet(root: Path) -> Path:
    image_set(root, "bytes").to_parquet(root / "images.parquet")
    return root / "images.parquet"


def as_saved_set(root: Path) -> str:
    import datasets

    datasets.DatasetDict(
        {"train": image_set(root, "path"), "test": image_set(root, "path").select([1])}
    ).save_to_disk(root)
    return str(root)


def as_saved_arrow(root: Path) -> Path:
    image_set(root, "bytes").save_to_disk(root / "saved")
    return next((root / "saved").glob("*.arrow"))


KINDS = [
    as_jsonl,
    as_json,
    as_csv,
    as_tsv,
    as_arrow_file,
    as_parquet,
    as_bytes_parquet,
    as_saved_set,
    as_saved_arrow,
]


@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
def test_the_same_rows_out_of_every_kind(write: Any, root: Path) -> None:
    assert [content_of(conversation) for conversation in read(write(root))] == CONTENT


def test_a_split_of_a_saved_set(root: Path) -> None:
    name = as_saved_set(root)
    assert [content_of(row) for row in read(f"{name}#test")] == CONTENT[1:]
    with pytest.raises(UserError, match=r"no split 'dev'. It has train, test"):
        read(f"{name}#dev")


def test_an_image_folder_with_metadata(root: Path) -> None:
    rows = [
        {"file_name": "a.png", "caption": "All red."},
        {"file_name": "b.png", "caption": "All blue."},
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sorted(content_of(row) for row in read(root)) == [[BLUE, "All blue."], [RED, "All red."]]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def as_shards(root: Path) -> str:
    """A shard in img2dataset's layout, and one with LLaVA's JSON, a picture and a long name."""
    picture = (root / "a.png").read_bytes()
    with tarfile.open(root / "00000.tar", "w") as tar:
        for number, color in enumerate(("a", "b")):
            key = f"00000000{number}"
            add(tar, f"{key}.png", (root / f"{color}.png").read_bytes())
            add(tar, f"{key}.txt", color.encode())
            add(
                tar,
                f"{key}.json",
                json.dumps({"url": "https://example.org/x.png", "width": 9}).encode(),
            )
    with tarfile.open(root / "00001.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
        key = "folder/" + "x" * 150
        add(
            tar, f"{key}.json", json.dumps({"image": "coco/1.jpg", "conversations": turns}).encode()
        )
        add(tar, f"{key}.png", picture)
    return str(root / "0000*.tar")


def test_webdataset_shards(root: Path) -> None:
    rows = read(as_shards(root))
    assert [content_of(row) for row in rows] == [[RED, "a"], [BLUE, "b"], [RED, "\nWhat?", "Red."]]
    assert [row.source for row in rows] == [
        *(f"{root}/00000.tar: sample {n}" for n in (1, 2)),
        f"{root}/00001.tar: sample 1",
    ]


def test_a_shard_made_on_a_mac(root: Path) -> None:
    """Its tar adds a file of attributes before each file, and the Finder's own file."""
    with tarfile.open(root / "mac.tar", "w") as tar:
        for name in (
            "._1.png",
            "1.png",
            "._1.txt",
            "1.txt",
            ".DS_Store",
            "__MACOSX/1.png",
            "2.png",
            "2.txt",
        ):
            add(tar, name, (root / "a.png").read_bytes() if name.endswith("png") else b"red")
    assert [content_of(row) for row in read(root / "mac.tar")] == [[RED, "red"]] * 2
    assert [content_of(row) for row in streamed(root / "mac.tar")] == [[RED, "red"]] * 2


def test_a_picture_inside_a_table_of_text(root: Path) -> None:
    """csv's own limit of 131,072 characters per field is too small for a photograph."""
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "noise.png")
    url = base64.b64encode((root / "noise.png").read_bytes()).decode()
    (root / "rows.csv").write_text(
        f'question,answer,image\nWhat?,Noise.,"data:image/png;base64,{url}"\n'
    )
    (row,) = read(root / "rows.csv")
    assert row.images[0].content == (root / "noise.png").read_bytes()


@pytest.mark.parametrize(
    "write", [*KINDS[:5], lambda root: Path(as_shards(root).replace("*", "0"))]
)
def test_some_rows_are_written_as_they_are(write: Any, root: Path) -> None:
    path = write(root)
    (part,) = open_rows(str(path)).files
    out = root / f"kept{path.suffix if path.suffix != '.feather' else '.arrow'}"
    part.write([1], out)
    assert [content_of(row) for row in read(out)] == [content_of(row) for row in read(path)][1:2]


def test_some_rows_of_a_table_are_written_many_at_a_time(root: Path) -> None:
    """A record batch takes 400 bytes in the file and 1.4 kB in memory, whatever it holds."""
    table = pa.table(
        {"question": [f"What {i}?" for i in range(1000)], "answer": [str(i) for i in range(1000)]}
    )
    with (
        pa.OSFile(str(root / "all.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    kept = [i for i in range(1000) if i % 3]
    (part,) = open_rows(str(root / "all.arrow")).files
    part.write(kept, root / "some.arrow")
    with pa.OSFile(str(root / "some.arrow"), "rb") as file:
        batches = list(pa.ipc.open_stream(file))
    assert pa.Table.from_batches(batches).equals(table.take(kept)) and len(batches) < 10


def blocks_of(text: str, size: int) -> list[bytes]:
    content = text.encode()
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_a_file_may_be_cut_into_blocks_anywhere() -> None:
    """Every size of block, so that each byte of a text is once the first of one."""
    questions = [f'ö"\\{"x" * i}\n€😀' for i in range(4)]
    rows = [{"question": text, "answer": "[]{},:", "image": []} for text in questions]
    array = "\ufeff" + json.dumps(rows, ensure_ascii=False, indent=1)
    lines = '\ufeffa\n\n   \n"x\n""y"",",c\r\n' + "d" * 30
    whole = list(line_blocks([lines.encode()], "x", quoted=True))
    spans = np.concatenate([block.spans for block in whole])
    assert spans[:, 2].tolist() == [1, 4, 5]
    for size in range(1, 60):
        found = list(array_values(blocks_of(array, size), "rows.json"))
        assert [json.loads(text) for _, _, text in found] == rows
        assert [array.encode()[start:end].decode() for start, end, _ in found] == [
            text for _, _, text in found
        ]
        blocks = list(line_blocks(blocks_of(lines, size), "x", quoted=True))
        np.testing.assert_array_equal(np.concatenate([block.spans for block in blocks]), spans)
        records = [
            block.line(start, end) for block in blocks for start, end, _ in block.spans.tolist()
        ]
        assert records == [lines.encode()[start:end] for start, end, _ in spans.tolist()]
        assert records[1] == b'"x\n""y"",",c\r'


def test_a_row_costs_24_bytes_and_no_parsing(root: Path) -> None:
    path = root / "many.jsonl"
    path.write_bytes(b'{"messages": broken}\n' * 1000)
    (part,) = open_rows(str(path)).files
    assert isinstance(part, IndexedFile)
    assert part.spans.nbytes == 24_000 and part.spans.dtype == np.int64


BAD = {
    "none.jsonl": (None, "cannot be read"),
    "none.parquet": (None, "cannot be read"),
    "none/*.tar": (None, "no file has such a name"),
    "rows.xlsx": (b"x", "ends in '.xlsx'. Expected one of .jsonl"),
    "rows": (b"x", "ends in 'nothing'"),
    "empty.jsonl": (b"", "no rows"),
    "empty.csv": (b"", "empty. Expected the column names"),
    "header.csv": (b"question,answer\n", "no rows"),
    "few.csv": (b"question,answer\na,b,c\n", "row 1: 3 fields, expected 2"),
    "quote.csv": (b'question,answer\n5" pipe,b\nc,d\n', "row 1.*(quote|fields)"),
    "twice.csv": (b"question,question\na,b\n", "different names"),
    "latin.csv": ("question,answer\nä,b\n".encode("latin-1"), "row 1: not UTF-8"),
    "latin.jsonl": ('{"messages": "ä"}'.encode("latin-1"), "latin.jsonl:1: not UTF-8"),
    "latin.json": ('[{"messages": "ä"}]'.encode("latin-1"), "byte 15 is not UTF-8"),
    "utf16.jsonl": ('{"messages": []}'.encode("utf-16"), "not UTF-8"),
    "pretty.jsonl": (b'{\n  "messages": []\n}\n', "pretty.jsonl: its JSON is written over several"),
    "pretty.ndjson": (b'[\r\n  {"messages": []}\r\n]', "pretty.ndjson: its JSON is written over"),
    "rows.jsonl.gz": (
        b"\x1f\x8b",
        "not read by number. Unpack it first, or stream",
    ),
    "rows.tar.gz": (
        b"\x1f\x8b",
        "not read by number. Unpack it first, or stream",
    ),
    "unnamed.csv": (b"question,answer,\na,b,c\n", "column 3 has no name"),
    "index.csv": (b",question,answer\nx y,a,b\na.png,c,d\n", "row 2: .*no image is read from ''"),
    "open.json": (b'[{"messages": []}, {"mess', "row 2: not JSON"),
    "unclosed.json": (b'[{"messages": []}', "the end.*expected"),
    "more.json": (b'[{"messages": []}] []', "text after the end of the array"),
    "commas.json": (b'[{"messages": []},]', "row 2: not JSON"),
    "lines.json": (b'[{"a": 1}]\n[{"a": 2}]', "text after the end of the array.*jsonl"),
    "deep.jsonl": (b"[" * 200_000, "not JSON"),
    "twice.jsonl": (
        b'{"a": [{"b": 1, "c": 2, "b": 1}]}',
        "twice.jsonl:1: the key 'b' is repeated",
    ),
    "digits.jsonl": (b'{"messages": ' + b"9" * 5000 + b"}", "not JSON"),
    "no.tar": (b"x" * 2048, "not an uncompressed tar"),
    "no.arrow": (b"x" * 64, "not an Arrow file"),
    "no.parquet": (b"x" * 64, "datasets cannot read it"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_file(name: str, root: Path) -> None:
    content, words = BAD[name]
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        read(root / name)
    assert name.split("*")[0] in str(error.value)


@pytest.mark.parametrize("write", [as_jsonl, as_json, as_csv, as_tsv])
def test_a_folder_of_text_is_read_as_its_files_are(
    write: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named like a loader of datasets, which would turn "007" into 7 and "NA" into null."""
    (root / "csv").mkdir()
    for file in (write(root), root / "a.png"):
        file.rename(root / "csv" / file.name)
    monkeypatch.chdir(root)
    (root / "a.png").touch()
    assert [content_of(row) for row in read(Path("csv"))] == CONTENT


def test_a_file_that_changes_during_a_run_is_an_error(root: Path) -> None:
    path = as_jsonl(root)
    rows = open_conversations(str(path))
    mapped.cache_clear()  # as in a worker process that opens it later
    path.write_text("{}\n")
    with pytest.raises(UserError, match="changed since it was opened"):
        rows[0]


def test_an_unknown_hub_name_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing: datasets cannot read it"):
        read("nobody/nothing")


def test_the_index_column_of_pandas_is_no_column(root: Path) -> None:
    (root / "rows.csv").write_text(",question,answer\n0,What?,That.\n1,Why?,So.\n")
    assert [content_of(row) for row in read(root / "rows.csv")] == [
        ["What?", "That."],
        ["Why?", "So."],
    ]
    (root / "rows.csv").write_text("Unnamed: 0,question,answer\n0,What?,That.\n")
    assert [content_of(row) for row in read(root / "rows.csv")] == [["What?", "That."]]


def test_a_row_is_no_longer_than_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lines, json_array):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(indexed_file, "BLOCK_BYTES", 100)
    for name, content in (
        ("rows.jsonl", '{"a": "' + "x" * 5000),
        ("rows.json", '[{"a": "' + "x" * 5000),
        ("rows.csv", 'question,answer\n"' + "x\n" * 5000),
    ):
        (root / name).write_text(content)
        with pytest.raises(UserError, match="row [12] is longer than"):
            read(root / name)


@pytest.mark.parametrize("cut", [8, 9, 16, 40])
def test_an_arrow_stream_that_was_cut(cut: int, root: Path) -> None:
    """Also between two record batches, where Arrow itself reads it as whole."""
    path = root / "rows.arrow"
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with pytest.raises(UserError, match="rows.arrow: not an Arrow file that can be read"):
        read(path)
    path.write_bytes(content + content)
    with pytest.raises(UserError, match="at byte"):
        read(path)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv.gz"])
def test_a_folder_of_compressed_text(name: str, root: Path) -> None:
    """datasets would turn "007" into 7, and not notice where it was cut."""
    (root / "set").mkdir()
    (root / "set" / name).write_bytes(gzip.compress(b"question,answer\n007,NA\n"))
    with pytest.raises(UserError, match="compressed files are not read"):
        read(root / "set")


def test_a_repeated_key_among_many(root: Path) -> None:
    """Found in time that is linear in the number of keys."""
    keys = ", ".join(f'"{i}": 1' for i in [*range(200_000), 7])
    (root / "rows.jsonl").write_text(f"{{{keys}}}")
    with pytest.raises(UserError, match="the key '7' is repeated"):
        read(root / "rows.jsonl")


def test_a_data_file_whose_name_looks_the_same(root: Path) -> None:
    as_jsonl(root)
    with pytest.raises(UserError, match="cannot be read .No such file.*Did you mean 'rows.jsonl'"):
        read(root / "Rows.jsonl")


def test_a_folder_of_mixed_files(root: Path) -> None:
    """datasets would read the kind that is most frequent, and leave the others out."""
    folder = root / "set"
    folder.mkdir()
    for name in ("1.jsonl", "2.jsonl"):
        (folder / name).write_text('{"question": "a", "answer": "b"}\n')
    (folder / "dataset_infos.json").write_text('{"question": "a"}')
    with pytest.raises(UserError, match="datasets cannot read it"):
        read(folder)
    (folder / "dataset_infos.json").write_text("{}")
    assert len(read(folder)) == 2
    (folder / "3.csv").write_text("question,answer\na,b\n")
    with pytest.raises(UserError, match="set: holds 3.csv, too, which would be left out"):
        read(folder)
    with pytest.raises(UserError, match="holds 3.csv, too"):
        list(open_conversations(str(folder), stream_seed=1).reader.iterate())
