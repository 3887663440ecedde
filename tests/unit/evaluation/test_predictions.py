"""Answers of several processes in the order of the rows, as torch's own sampler deals rows out."""

from __future__ import annotations

import pytest
from torch.utils.data import DistributedSampler

from dsvl_tune.evaluation.predictions import in_row_order


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [4, 5, 9])
def test_rows_come_back_in_order(rows: int, processes: int) -> None:
    shares = [
        [
            {"source": f"row {row}"}
            for row in DistributedSampler(range(rows), processes, rank, shuffle=False)
        ]
        for rank in range(processes)
    ]
    assert [answer["source"] for answer in in_row_order(shares, rows)] == [
        f"row {row}" for row in range(rows)
    ]
