"""What `dsvl-tune predict` leaves behind: every answer, in the order of the rows, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import distributed

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import write_json_lines
from dsvl_tune.evaluation.generate import Answer


def answers_file(out: Path | None, run: Path | None, base: Path) -> Path:
    """Where the answers go, settled before the work begins.

    Args:
        out: what the user gave. run: the run that the recipe means, if there is one. base: folder that it would have.

    Raises:
        UserError: neither a file nor a run was given, or the file cannot be made there.
    """
    if out is None and run is None:
        raise UserError(
            f"predict: there is no run {base} to keep the answers in. Give --out answers.jsonl, or --config "
            "runs/NAME/config.yaml of a run."
        )
    if out is None:
        assert run is not None
        return run / "predictions" / "predict.jsonl"
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(
            f"--out {out}: expected a file in a folder that exists. Give such a name: answers.jsonl."
        )
    return out


def gather_answers(own: list[Answer], rows: Sequence[Sequence[Any]]) -> list[Answer]:
    """The answers of all processes in the order of the rows; each process holds every n-th of them.

    Args:
        own: this process's. rows: that were asked, each a list of conversations; shares of equal length repeat some at
            the end.
    """
    if not distributed.is_initialized():
        return own
    shares: list[list[Answer]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(shares, own)
    return in_row_order(shares, sum(len(row) for row in rows))


def in_row_order(shares: Sequence[list[Answer]], total: int) -> list[Answer]:
    """Row i is number i // n in the share of process i % n, as the data module deals them out.

    Fewer than `total` where Lightning was told to stop early.
    """
    total = min(total, sum(len(share) for share in shares))
    return [shares[row % len(shares)][row // len(shares)] for row in range(total)]


def write_answers(path: Path, answers: list[Answer], weights: str | Path) -> None:
    """Write the file and say what was done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, answers)
    cut = sum(not answer["complete"] for answer in answers)
    print(f"{len(answers)} answers of {weights}: {path}")
    if cut:
        print(f"{cut} of them were cut off: raise model.max_new_tokens to read them whole")
