"""Lightning's messages on every start that a user cannot act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")

WARNINGS = (
    ".*does not have many workers",
    ".*treespec, LeafSpec",
    "Be aware that when using `ckpt_path`, callbacks",
    "It is recommended to use `self.log",  # the logged values are equal on all ranks
    "The number of training batches",  # validation intervals continue across epochs
    "The dirpath has changed from",
    "Checkpoint directory .* exists and is not empty",
)
"""Beginnings of warnings, as regular expressions."""


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide these messages while the block runs."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
