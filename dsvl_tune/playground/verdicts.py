"""Judged questions, kept as rows that `fit`, `check-data` and `score` read.

A folder holds `rows.jsonl`, the questions whose right answer is known; `open.jsonl`, those that
were answered wrong and wait for one; and their pictures in `images/`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_write, write_json_lines
from dsvl_tune.core.storage.outputs import check_output_folder
from dsvl_tune.core.types import ImageRef
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import read_row
from dsvl_tune.data.formats.tags import PLACEHOLDER, escape_tags
from dsvl_tune.data.images.load import READ_FORMATS
from dsvl_tune.data.readers.parse import parse_json
from dsvl_tune.playground.answering import Asked

Verdict = Literal["right", "corrected", "wrong"]
Row = Mapping[str, Any]
ROWS, OPEN, IMAGES = "rows.jsonl", "open.jsonl", "images"


@dataclass(frozen=True)
class VerdictFolder:
    """A folder of judged questions.

    Attributes:
        path: Of the folder; made with the first verdict.
    """

    path: Path

    def check(self, option: str) -> None:
        """Raise unless the folder is free, or holds verdicts and nothing else.

        Args:
            option: That names the folder.

        Raises:
            UserError: It is a file, or has other files.
        """
        check_output_folder(self.path, option, _holds_verdicts, overwrite=True)

    def save(self, asked: Asked, verdict: Verdict, correct: str = "") -> None:
        """Keep a question with its verdict; an earlier verdict on the same question is replaced.

        Args:
            asked: The question; the last one of its answers was judged.
            verdict: On that answer; wrong if nobody knows the right one.
            correct: The right answer, if the verdict is corrected.

        Raises:
            UserError: The right answer is empty, or the row could not be read again or written.
        """
        reference = asked.answers[-1] if verdict == "right" else correct
        if verdict != "wrong" and not reference.strip():
            raise UserError("the right answer is empty. Type it, or choose Wrong.")
        row = self._row(asked, verdict, reference)
        read_row(row, "this question", ImageSource(self.path), needs_answer=verdict != "wrong")
        for name in (ROWS, OPEN):
            kept = [one for one in self._read(name) if _question(one) != _question(row)]
            if (name == OPEN) == (verdict == "wrong"):
                kept.append(row)
            if kept or (self.path / name).exists():
                write_json_lines(self.path / name, kept)

    def counts(self) -> Counter[str]:
        """Number of questions by verdict."""
        return Counter(row["verdict"] for name in (ROWS, OPEN) for row in self._read(name))

    def _row(self, asked: Asked, verdict: Verdict, reference: str) -> dict[str, Any]:
        """A judged question as a row; its picture is written."""
        (turn,) = asked.conversation.turns
        images = [part for part in turn.parts if isinstance(part, ImageRef)]
        texts = [
            PLACEHOLDER if isinstance(one, ImageRef) else escape_tags(one) for one in turn.parts
        ]
        messages = [{"role": "user", "content": "".join(texts)}]
        if asked.conversation.system:
            messages.insert(0, {"role": "system", "content": asked.conversation.system})
        if verdict != "wrong":
            messages.append({"role": "assistant", "content": escape_tags(reference)})
        compared = {"compared": asked.answers[0]} if len(asked.answers) > 1 else {}
        return {
            "messages": messages,
            "images": [self._write_picture(image) for image in images],
            "prediction": asked.answers[-1],
            **compared,
            "references": [] if verdict == "wrong" else [reference],
            "verdict": verdict,
        }

    def _write_picture(self, image: ImageRef) -> str:
        """Keep the file of a picture under the name of its content; returns its path in a row."""
        assert isinstance(image.content, bytes)
        content = image.content
        format = Image.open(BytesIO(content), formats=READ_FORMATS).format or "image"
        digest = hashlib.sha256(content).hexdigest()[:16]
        name = f"{IMAGES}/{digest}.{format.lower()}"
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            atomic_write(file, lambda partial: partial.write_bytes(content))
        return name

    def _read(self, name: str) -> list[Row]:
        """The rows of one of the two files; [] without it.

        Raises:
            UserError: A line is no verdict.
        """
        file = self.path / name
        if not file.is_file():
            return []
        rows: list[Row] = []
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            row = parse_json(line, f"{file}:{number}")
            if not isinstance(row, dict) or not {"messages", "verdict"} <= row.keys():
                raise UserError(f"{file}:{number}: no verdict of this page. Move the file away.")
            rows.append(row)
        return rows


def _holds_verdicts(folder: Path) -> bool:
    """Whether a folder holds verdicts and nothing else."""
    if {path.name for path in folder.iterdir()} - {ROWS, OPEN, IMAGES}:
        return False
    try:
        VerdictFolder(folder).counts()
    except UserError:
        return False
    return True


def _question(row: Row) -> tuple[Any, Any]:
    """What a row asks about what: equal for two verdicts on one question."""
    return row.get("images"), [one for one in row["messages"] if one["role"] != "assistant"]
