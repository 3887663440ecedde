"""A survey that was broken off goes on where it broke; what has changed since is examined again, and nothing else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_tune.core.types import Conversation, Processor
from dsvl_tune.data.validation import result_cache as remembered
from dsvl_tune.data.validation.inspect import Examine, Facts, survey
from dsvl_tune.data.validation.result_cache import cached_inspection
from dsvl_tune.datamodules import ChartsDataModule, InstructDataModule, ScenesDataModule

ROWS = 50


@dataclass
class Noted(Examine):
    """Examines, and notes each row in a file."""

    log: Path = Path()

    def __call__(self, row: list[Conversation]) -> list[Facts]:
        with self.log.open("a") as file:
            file.write(row[0].source.rpartition(":")[2] + "\n")
        return super().__call__(row)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "PIECE", 10)
    monkeypatch.setattr(remembered, "FORK_FROM", 1)
    for i in range(3):
        Image.new("RGB", (20, 30 + i), (90 * i, 9, 9)).save(tmp_path / f"{i}.png")
    rows = [
        {"question": f"a{i}", "answer": str(i), "image": f"{i % 4}.png" if i % 2 else None}
        for i in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def surveyed(folder: Path, processor: Processor, **settings: Any) -> Iterator[Facts]:
    data = InstructDataModule(str(folder / "rows.jsonl"))
    rows: Any = data.unchecked()["train"]
    return cached_inspection(
        rows, Noted(processor, log=folder / "log", **settings), rows.identity, "checking"
    )


def noted(folder: Path) -> list[int]:
    """The rows that were examined since the last time, from 0."""
    numbers = (
        [int(line) - 1 for line in (folder / "log").read_text().splitlines()]
        if (folder / "log").exists()
        else []
    )
    (folder / "log").unlink(missing_ok=True)
    return numbers


def killed_at(folder: Path, processor: Processor, row: int) -> None:
    for number, _ in enumerate(surveyed(folder, processor)):
        if number == row:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_pass_goes_on(folder: Path, processor: Processor) -> None:
    process = get_context("fork").Process(target=killed_at, args=(folder, processor, 34))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(noted(folder)) >= 40
    facts = list(surveyed(folder, processor))
    bad = [i for i in range(ROWS) if i % 4 == 3]  # 3.png is not there
    assert noted(folder) == sorted({*range(40, ROWS), *bad})
    fresh = InstructDataModule(str(folder / "rows.jsonl")).unchecked()["train"]
    assert facts == list(survey(fresh, Examine(processor)))
    assert [i for i, one in enumerate(facts) if one.error] == bad
    assert list(surveyed(folder, processor)) == facts and noted(folder) == bad


def test_what_has_changed_is_examined_again(folder: Path, processor: Processor) -> None:
    list(surveyed(folder, processor))
    noted(folder)
    Image.new("RGB", (9, 9)).save(folder / "3.png")
    (folder / "1.png").write_bytes(b"no picture")
    facts = list(surveyed(folder, processor))
    assert noted(folder) == list(
        range(1, ROWS, 2)
    )  # those with a picture that is another, or was missing
    assert [i for i, one in enumerate(facts) if one.error] == list(range(1, ROWS, 4))
    list(surveyed(folder, processor, max_tokens=99))
    assert len(noted(folder)) == ROWS
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("a0", "b0"))
    assert len(list(surveyed(folder, processor))) == ROWS == len(noted(folder))


def test_generated_rows_are_known_by_their_settings() -> None:
    makers: list[Any] = [
        lambda: ChartsDataModule(train_charts=5),
        lambda: ChartsDataModule(train_charts=5, questions=3),
        lambda: ScenesDataModule(train_rows=5),
        lambda: ScenesDataModule(train_rows=5, most=3),
    ]
    identities = [make().identity("train") for make in makers]
    assert len(set(identities)) == 4 and identities == [make().identity("train") for make in makers]
    assert makers[0]().identity("validation") != identities[0]
