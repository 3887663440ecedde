"""A few cases of each kind of damaged settings; `benchmarks/soak/fuzz.py` runs thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from frame import run_cases
from settings_kinds import SETTINGS_KINDS


@pytest.mark.parametrize("name", SETTINGS_KINDS)
def test_damaged_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a damaged name is sought nowhere
    cases = run_cases(name, SETTINGS_KINDS[name], range(25), tmp_path)
    faults = [fault for fault in cases if fault]
    assert not faults, "\n".join(f"{name} {fault.number}: {fault.reason}" for fault in faults)
