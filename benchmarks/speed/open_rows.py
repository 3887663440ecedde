"""How long a large data set takes to open, its memory, and how fast rows are read in random order.

    python benchmarks/speed/open_rows.py [ROWS] [FOLDER]

Writes ROWS rows (default 1,000,000) of each file type into FOLDER (default: a temporary one), opens
each in a process of its own and prints a table. The rows name images, which are not read.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from tarfile import TarFile, TarInfo

import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_tune.data.formats.conversations import open_conversations

READS = 20_000


def text_row(number: int) -> dict[str, str]:
    """Return the row of this number."""
    words = " ".join(
        random.Random(number).choices(["bar", "line", "axis", "value", "label", "legend"], k=24)
    )
    return {
        "question": f"Row {number}: {words}?",
        "answer": str(number),
        "image": f"images/{number % 5000}.png",
    }


def write_jsonl(path: Path, rows: int) -> None:
    """Write JSON lines."""
    with path.open("w") as file:
        file.writelines(json.dumps(text_row(number)) + "\n" for number in range(rows))


def write_json(path: Path, rows: int) -> None:
    """Write one JSON list."""
    with path.open("w") as file:
        file.write("[\n")
        file.writelines(
            ("," if number else "") + json.dumps(text_row(number)) + "\n" for number in range(rows)
        )
        file.write("]\n")


def write_csv(path: Path, rows: int) -> None:
    """Write CSV with a header."""
    with path.open("w") as file:
        file.write("question,answer,image\n")
        file.writelines(
            '"{question}",{answer},{image}\n'.format(**text_row(number)) for number in range(rows)
        )


def write_arrow(path: Path, rows: int) -> None:
    """Write an Arrow stream."""
    schema = pa.schema([(name, pa.string()) for name in text_row(0)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, rows, 1000):
            batch = [text_row(number) for number in range(start, min(start + 1000, rows))]
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def write_parquet(path: Path, rows: int) -> None:
    """Write parquet."""
    schema = pa.schema([(name, pa.string()) for name in text_row(0)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            batch = [text_row(number) for number in range(start, min(start + 10_000, rows))]
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def write_tar(path: Path, rows: int) -> None:
    """Write a WebDataset tar of two members per sample."""
    with TarFile.open(path, "w") as tar:
        for number in range(rows):
            for ending, content in (
                ("png", b"x" * 100),
                ("txt", text_row(number)["question"].encode()),
            ):
                member = TarInfo(f"{number:09d}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
            tar.members.clear()


WRITERS: dict[str, Callable[[Path, int], None] | None] = {
    "jsonl": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "arrow": write_arrow,
    "parquet": write_parquet,
    "parquet, again": None,
    "tar": write_tar,
}


def own_bytes() -> int:
    """Memory of this process that no file backs (RssAnon)."""
    status = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")
    )


def measure(path: str) -> tuple[int, float, float, float, float, float]:
    """Open a file and read rows in random order.

    Returns:
        Rows, seconds and CPU seconds to open, own MB, rows per CPU second, peak MB.
    """
    before = own_bytes()
    start, busy = time.perf_counter(), time.process_time()
    conversations = open_conversations(path)
    opened, worked = time.perf_counter() - start, time.process_time() - busy
    kept = own_bytes() - before
    order = random.Random(1).choices(range(len(conversations)), k=READS)
    busy = time.process_time()
    for index in order:
        conversations[index]
    rate = READS / (time.process_time() - busy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return len(conversations), opened, worked, kept / 2**20, rate, peak


def main() -> None:
    """Parse the command line, measure and print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"  # parquet is unpacked there once
        head = "file MB  open s  CPU s  own MB  rows/CPU s  peak MB incl. mapped"
        print(f"{'type':14} {'rows':>9}  {head}")
        for file_type, write in WRITERS.items():
            path = Path(folder) / f"rows.{file_type.partition(',')[0]}"
            if write is not None:
                write(path, rows if file_type != "tar" else rows // 10)
            size = path.stat().st_size / 2**20
            with get_context("spawn").Pool(1) as pool:
                count, opened, busy, kept, rate, peak = pool.apply(measure, [str(path)])
            times = f"{opened:7.2f} {busy:6.2f} {kept:7.0f} {rate:11.0f} {peak:8.0f}"
            print(f"{file_type:14} {count:9,} {size:8.0f} {times}", flush=True)


if __name__ == "__main__":
    main()
