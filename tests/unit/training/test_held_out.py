"""What a run says at its end."""

from __future__ import annotations

import shlex
from pathlib import Path

from dsvl_tune.training.callbacks.heldout_evaluation import summary_text

SUMMARY = {
    **{
        "before": {},
        "after": {},
        "floor": {},
        "steps": 1,
        "trainable_parameters": 1,
        "best_checkpoint": "best.ckpt",
    },
    **{"wall_s": 1.0, "peak_rss_bytes": 1, "peak_gpu_bytes": 0},
}


def test_the_next_command_can_be_pasted() -> None:
    folder = Path("my data/it's é")
    command = summary_text(SUMMARY, folder).rpartition("next: ")[2]
    assert shlex.split(command) == ["dsvl-tune", "merge", str(folder)]
