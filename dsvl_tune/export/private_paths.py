"""Paths of this machine in files that are about to be published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

TEXTS = (".md", ".json", ".jinja", ".txt", ".yaml", ".yml")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "merges.txt")
"""Texts whose words come from a corpus."""
FOLDERS = "home|Users|root|mnt|media|data|scratch|workspace|work|tmp|private|opt|srv|var"
PATH = re.compile(
    rf"(?<![\w./:\\-])(?:/(?:{FOLDERS})/|~/|[A-Za-z]:\\{{1,2}})[^\s\"'`,;)\]}}|<>]+"  # not in URLs
    r'|(?<="base_model_name_or_path": ")/[^"]+'  # peft's, on a disk of any name
)


class PrivatePath(NamedTuple):
    """A path in a file.

    Attributes:
        file: The file.
        line: Number of the line, from 1.
        path: What was found.
    """

    file: Path
    line: int
    path: str


def private_paths(files: Iterable[Path]) -> Iterator[PrivatePath]:
    """Yield the paths in cards and settings: those that look like one, and folders in use now.

    Args:
        files: Of any kind; weights and vocabularies are not searched.
    """
    here = [str(folder) for folder in (Path.home(), Path.cwd()) if len(folder.parts) > 1]
    for file in files:
        if file.suffix not in TEXTS or file.name in VOCABULARIES:
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            found = PATH.search(line)
            used = next((folder for folder in here if folder in line), None)
            if found or used:
                yield PrivatePath(file, number, found[0] if found else str(used))
