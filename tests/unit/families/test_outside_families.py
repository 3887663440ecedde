"""Nothing but `families/`, the demo and the kernels contains a word of a model family."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dsvl_tune
import dsvl_tune.datamodules

ROOT = Path(str(dsvl_tune.__file__)).parent
KNOW_THEM = ("families", "demo", "kernels")
"""Packages that may: kernels are chosen by transformers' classes."""
TOWERS_AND_DECODERS = {"siglip", "sam", "high_res", "hybrid", "downsample", "llama"}
"""Words of their tensors and configs that mean nothing else."""
FILES = [
    path
    for folder in (ROOT, Path(str(dsvl_tune.datamodules.__file__)).parent)
    for path in sorted(folder.rglob("*.py"))
    if path.relative_to(folder).parts[0] not in KNOW_THEM
]


def family_words() -> re.Pattern[str]:
    """Names of the families' folders, and of their towers and decoders."""
    folders = {path.parent.name for path in (ROOT / "families").glob("*/family.py")}
    either = "|".join(sorted(folders | TOWERS_AND_DECODERS))
    return re.compile(rf"(?<![a-z])({either})(?![a-z])", re.IGNORECASE)


def words_of(path: Path) -> Iterator[str]:
    """Names and texts in a module; comments and docstrings may explain by example."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    explained = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in explained:
                yield node.value
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        else:
            for field in ("id", "attr", "arg", "name"):
                yield str(getattr(node, field, ""))


def test_no_word_of_a_family() -> None:
    known = family_words()
    found = {
        str(path): words
        for path in FILES
        if (words := [word for word in words_of(path) if known.search(word)])
    }
    assert len(FILES) > 200
    assert found == {}
