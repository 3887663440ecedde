"""The benchmarks, which are run by hand, still import: no name they use has moved."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.rglob("*.py"))
NEEDED = {
    "contender_trl": "trl",
    "contender_swift": "swift",
    "contender_llamafactory": "llamafactory",
}
"""Trainers of the extra `speed`, or with environments of their own (tests/interop runs those)."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_imports(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script.stem in NEEDED:
        pytest.importorskip(NEEDED[script.stem])
    # pytest keeps the conftest.py of whatever folder it read last under this one name
    monkeypatch.delitem(sys.modules, "conftest", raising=False)
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    importlib.import_module(script.stem)


def test_every_script_is_described() -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    parts = {path.name for path in SCRIPTS if path.stem.startswith("contender_")}
    assert not [path.name for path in SCRIPTS if path.name not in readme and path.name not in parts]
