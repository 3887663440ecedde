"""A few cases of each kind of damaged run; `benchmarks/soak/fuzz.py` runs thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from frame import run_cases
from run_kinds import RUN_KINDS
from shard_kinds import SHARD_KINDS
from state_kinds import STATE_KINDS

KINDS = {**RUN_KINDS, **SHARD_KINDS, **STATE_KINDS}
CASES = {"crafted_states": 8}
"""Cases of a kind, each a training step; 60 of the others."""


@pytest.mark.parametrize("name", KINDS)
def test_damaged_runs(name: str, tmp_path: Path) -> None:
    numbers = range(CASES.get(name, 60))
    faults = [fault for fault in run_cases(name, KINDS[name], numbers, tmp_path) if fault]
    assert not faults, "\n".join(f"{name} {fault.number}: {fault.reason}" for fault in faults)
