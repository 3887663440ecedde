"""An interrupted check resumes where it stopped; only what changed is inspected again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.validation.inspect import inspect_rows
from dsvl_tune.data.validation.row_stats import RowInspector, RowStats
from dsvl_tune.datamodules import ChartsDataModule, InstructDataModule, ScenesDataModule

ROWS = 50


@dataclass
class LoggedInspector(RowInspector):
    """Logs each row that it inspects to a file."""

    log: Path = Path()

    def __call__(self, row: Sequence[Conversation]) -> list[RowStats]:
        with self.log.open("a") as file:
            file.write(row[0].source.rpartition(":")[2] + "\n")
        return super().__call__(row)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(3):
        Image.new("RGB", (20, 30 + i), (90 * i, 9, 9)).save(tmp_path / f"{i}.png")
    rows = [
        {"question": f"a{i}", "answer": str(i), "image": f"{i % 4}.png" if i % 2 else None}
        for i in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def inspected(folder: Path, processor: Processor, **settings: Any) -> Iterator[RowStats]:
    rows = InstructDataModule(str(folder / "rows.jsonl")).unchecked()["train"]
    inspector = LoggedInspector(processor, log=folder / "log", **settings)
    for results in inspect_rows(rows, inspector, fork_from=1000, cache_from=1, piece_rows=10):
        yield from results


def logged(folder: Path) -> list[int]:
    """The rows that were inspected since the last time, from 0."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [int(line) - 1 for line in lines]


def killed_at(folder: Path, processor: Processor, row: int) -> None:
    for number, _ in enumerate(inspected(folder, processor)):
        if number == row:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_check_resumes(folder: Path, processor: Processor) -> None:
    process = get_context("fork").Process(target=killed_at, args=(folder, processor, 34))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(logged(folder)) >= 40
    results = list(inspected(folder, processor))
    bad = [i for i in range(ROWS) if i % 4 == 3]  # 3.png is not there
    assert logged(folder) == sorted({*range(40, ROWS), *bad})
    fresh = InstructDataModule(str(folder / "rows.jsonl")).unchecked()["train"]
    assert [[one] for one in results] == list(inspect_rows(fresh, RowInspector(processor)))
    assert [i for i, one in enumerate(results) if one.error] == bad
    assert list(inspected(folder, processor)) == results and logged(folder) == bad


def test_what_changed_is_inspected_again(folder: Path, processor: Processor) -> None:
    list(inspected(folder, processor))
    logged(folder)
    Image.new("RGB", (9, 9)).save(folder / "3.png")
    (folder / "1.png").write_bytes(b"no picture")
    results = list(inspected(folder, processor))
    assert logged(folder) == list(
        range(1, ROWS, 2)
    )  # those with a picture that is another, or was missing
    assert [i for i, one in enumerate(results) if one.error] == list(range(1, ROWS, 4))
    list(inspected(folder, processor, max_tokens=99))
    assert len(logged(folder)) == ROWS
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("a0", "b0"))
    assert len(list(inspected(folder, processor))) == ROWS == len(logged(folder))


def test_generated_rows_are_identified_by_their_settings() -> None:
    makers: list[Any] = [
        lambda: ChartsDataModule(train_charts=5),
        lambda: ChartsDataModule(train_charts=5, questions=3),
        lambda: ScenesDataModule(train_rows=5),
        lambda: ScenesDataModule(train_rows=5, most=3),
    ]
    identities = [make().rows("train").identity for make in makers]
    assert len(set(identities)) == 4
    assert identities == [make().rows("train").identity for make in makers]
    assert makers[0]().rows("validation").identity != identities[0]
