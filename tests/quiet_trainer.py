"""Lightning's trainer on the CPU, without what a test does not look at."""

from __future__ import annotations

from typing import Any

import lightning as L


def quiet_trainer(**settings: Any) -> L.Trainer:
    """A trainer that shows, logs and keeps nothing but what `settings` ask for."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{**quiet, **settings})
