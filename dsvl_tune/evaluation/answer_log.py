"""Answers as they come, kept next to the final file so that a killed command resumes.

Each process appends to a file of its own; each line is complete or ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dsvl_tune.evaluation.answers import Answer


@dataclass
class AnswerLog:
    """The answers of a command that is not finished.

    Attributes:
        out: the file that the finished command writes.
        identity: what the answers depend on; answers of another identity are dropped.
        rank: this process.
    """

    out: Path
    identity: str
    rank: int = 0
    _file: Any = field(default=None, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The file of this process."""
        return self.out.with_name(f".{self.out.name}.{self.rank}.progress")

    def paths(self) -> list[Path]:
        """The files of all processes, also of earlier attempts with more of them."""
        return sorted(self.out.parent.glob(f".{_escaped(self.out.name)}.*.progress"))

    def read(self) -> list[Answer]:
        """The answers that earlier attempts gave, each question once."""
        answers: dict[int, Answer] = {}
        for path in self.paths():
            for answer in self._read_file(path):
                answers.setdefault(answer.number, answer)
        return list(answers.values())

    def _read_file(self, path: Path) -> list[Answer]:
        """The complete lines of a file of the same identity."""
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break was cut off
        try:
            records = [json.loads(line) for line in lines]
            if not records or records[0] != {"identity": self.identity}:
                return []
            return [Answer(**_with_tuples(record)) for record in records[1:]]
        except (ValueError, TypeError, LookupError):
            return []

    def start(self) -> None:
        """Open the file of this process, with its answers of earlier attempts."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        answers = self._read_file(self.path) if self.path.is_file() else []
        partial = self.path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"identity": self.identity}) + "\n")
            file.writelines(_line(answer) for answer in answers)
        partial.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def append(self, answers: Sequence[Answer]) -> None:
        """Keep answers: they survive a kill from now on.

        Args:
            answers: of one batch.
        """
        self._file.writelines(_line(answer) for answer in answers)
        self._file.flush()

    def remove(self) -> None:
        """Remove the files of all processes; the command is finished."""
        if self._file is not None:
            self._file.close()
        for path in self.paths():
            path.unlink(missing_ok=True)


def file_stats(path: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of the last change of a file, or of all files in a folder.

    Args:
        path: of weights: answers of other weights are not taken for theirs.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(str(file), file.stat()) for file in files]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found]


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its sequences as Answer has them."""
    return record | {key: tuple(record[key]) for key in ("references", "images")}


def _escaped(name: str) -> str:
    """A file name as a pattern that matches it alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
