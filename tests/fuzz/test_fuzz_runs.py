"""A few cases of each kind of damaged run; `benchmarks/soak/fuzz.py` runs thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from frame import run_cases
from run_kinds import RUN_KINDS
from shard_kinds import SHARD_KINDS

KINDS = {**RUN_KINDS, **SHARD_KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_runs(name: str, tmp_path: Path) -> None:
    faults = [fault for fault in run_cases(name, KINDS[name], range(60), tmp_path) if fault]
    assert not faults, "\n".join(f"{name} {fault.number}: {fault.reason}" for fault in faults)
