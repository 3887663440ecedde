"""Commands that run out of memory end with one message that says what to lower."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Commands, write_recipe

FEW_MEGABYTES = 40
"""Too few to load torch."""
MANY = 900
"""Questions that are answered at a time."""


@pytest.mark.parametrize(
    ("arguments", "megabytes", "named"),
    [
        (
            ("predict", "--config", "run.yaml", "--out", "answers.jsonl"),
            1400,
            (f"on {MANY} prompts of up to", f"data.eval_batch_size from {MANY} to {MANY // 2}"),
        ),
        (("merge", "RUN", "--out", "merged"), FEW_MEGABYTES, ("--rows below 16",)),
        (
            ("chat", "--model", "embedded", "--prompt", "How many?"),
            FEW_MEGABYTES,
            ("--dtype bfloat16",),
        ),
    ],
    ids=["predict", "merge", "chat"],
)
def test_the_message(
    arguments: tuple[str, ...],
    megabytes: int,
    named: tuple[str, ...],
    whole_run: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    commands: Commands,
) -> None:
    data = {"eval_batch_size": MANY, "test_charts": MANY // 3 + 1}
    write_recipe(
        tmp_path,
        hybrid_checkpoint,
        **{f"data__init_args__{key}": value for key, value in data.items()},
    )
    given = [str(whole_run) if one == "RUN" else one for one in arguments]
    process = commands.start(tmp_path, *given, memory_bytes=megabytes << 20)
    code = commands.ends(process, within_s=300)
    message = (tmp_path / "log").read_text(encoding="utf-8")
    assert code == 2, message
    assert "error: out of memory" in message and "Traceback" not in message
    assert all(text in message for text in named), message
    assert not (tmp_path / "merged").exists() and not (tmp_path / "answers.jsonl").exists()
