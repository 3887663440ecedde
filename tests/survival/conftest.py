"""The run that was never stopped, and a server of forked commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import Commands, fit, write_recipe


@pytest.fixture(scope="session")
def whole_run(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(write_recipe(folder, hybrid_checkpoint)) == 0
    return folder / "runs" / "run"


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    script = Path(__file__).parents[2] / "benchmarks" / "soak" / "forked.py"
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Commands(server)
        assert server.stdin is not None
        server.stdin.close()
