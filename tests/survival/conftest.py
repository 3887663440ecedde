"""The run that was never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import fit, write_recipe


@pytest.fixture(scope="session")
def whole_run(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(write_recipe(folder, hybrid_checkpoint)) == 0
    return folder / "runs" / "run"
