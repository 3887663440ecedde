"""A few cases of each kind of damaged data; `benchmarks/soak/fuzz.py` runs thousands."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from data_kinds import DATA_KINDS
from frame import run_cases

CASES = {"rows": 250, "parquet": 5, "saved": 20}
"""Cases of a kind; 40 of the others."""


@pytest.mark.parametrize("name", DATA_KINDS)
def test_damaged_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    cases = range(CASES.get(name, 40))
    faults = [fault for fault in run_cases(name, DATA_KINDS[name], cases, tmp_path) if fault]
    assert not faults, "\n".join(f"{name} {fault.number}: {fault.reason}" for fault in faults)
