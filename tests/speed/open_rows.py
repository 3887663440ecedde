"""How long a large set takes to open, how much memory that costs, and how fast rows come out of it in any order.

    python tests/speed/open_rows.py [ROWS] [FOLDER]

Writes ROWS rows (default 1,000,000) of each kind into FOLDER (default: a temporary one), opens each in a process of its
own and prints a table. The rows name images, which are not read.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from tarfile import TarFile, TarInfo

import pyarrow as pa

from dsvl_tune.data.conversations import open_conversations

READS = 20_000


def text_row(number: int) -> dict[str, str]:
    words = " ".join(random.Random(number).choices(["bar", "line", "axis", "value", "label", "legend"], k=24))
    return {"question": f"Row {number}: {words}?", "answer": str(number), "image": f"images/{number % 5000}.png"}


def write_jsonl(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(text_row(number)) + "\n" for number in range(rows))


def write_json(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("[\n")
        file.writelines(("," if number else "") + json.dumps(text_row(number)) + "\n" for number in range(rows))
        file.write("]\n")


def write_csv(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("question,answer,image\n")
        file.writelines('"{question}",{answer},{image}\n'.format(**text_row(number)) for number in range(rows))


def write_arrow(path: Path, rows: int) -> None:
    schema = pa.schema([(name, pa.string()) for name in text_row(0)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, rows, 1000):
            batch = [text_row(number) for number in range(start, min(start + 1000, rows))]
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def write_tar(path: Path, rows: int) -> None:
    with TarFile.open(path, "w") as tar:
        for number in range(rows):
            for ending, content in (("png", b"x" * 100), ("txt", text_row(number)["question"].encode())):
                member = TarInfo(f"{number:09d}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
            tar.members.clear()


WRITERS = {"jsonl": write_jsonl, "json": write_json, "csv": write_csv, "arrow": write_arrow, "tar": write_tar}


def own_bytes() -> int:
    """Memory of this process that no file backs (RssAnon)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measure(path: str) -> tuple[int, float, float, float, float]:
    """(rows, seconds to open, anonymous MB, rows a second in random order, peak MB)."""
    before = own_bytes()
    start = time.perf_counter()
    conversations = open_conversations(path)
    opened = time.perf_counter() - start
    kept = own_bytes() - before
    order = random.Random(1).choices(range(len(conversations)), k=READS)
    start = time.perf_counter()
    for index in order:
        conversations[index]
    rate = READS / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return len(conversations), opened, kept / 2**20, rate, peak


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        print("kind      rows  file MB  open s  own MB  rows/s  peak MB incl. mapped")
        for kind, write in WRITERS.items():
            path = Path(folder) / f"rows.{kind}"
            write(path, rows if kind != "tar" else rows // 10)
            size = path.stat().st_size / 2**20
            with get_context("spawn").Pool(1) as pool:
                count, opened, kept, rate, peak = pool.apply(measure, [str(path)])
            print(f"{kind:5} {count:9,} {size:8.0f} {opened:7.2f} {kept:7.0f} {rate:7.0f} {peak:8.0f}", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
