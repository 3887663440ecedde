"""The loader of training rows, whose checkpoint says which data its position belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zlib import crc32

import lightning as L
from torch.utils.data import DataLoader

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.checksum import file_checksum
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.sampling.batch_sampler import BatchSampler, check_settings


def data_checksums(
    train: Rows, held_out: Sequence[Rows], texts: Sequence[Path] = ()
) -> dict[str, int]:
    """Checksums of what a run's result depends on, by a name for errors.

    Args:
        train: the training rows.
        held_out: of every other split: they pick the best checkpoint, and are scored before the
            first step.
        texts: files of held-out texts.
    """
    contents: list[Any] = [(rows.checksum, rows.picture_checksum) for rows in held_out]
    contents += [file_checksum(path) for path in texts]
    return {
        "content of the rows (checksum)": train.checksum,
        "content of the pictures (checksum)": train.picture_checksum,
        "content of the held-out rows and their pictures (checksum)": crc32(
            repr(contents).encode()
        ),
    }


class ResumableLoader(DataLoader[Any]):
    """A loader that resumes at the exact micro-batch, on the same data.

    The position itself is Lightning's count of trained micro-batches; the checkpoint adds what that
    position depends on.

    Attributes:
        batch_sampler: which rows come when.
        checksums: of the data, as `data_checksums` gives them.
    """

    batch_sampler: BatchSampler
    checksums: Mapping[str, int] = MappingProxyType({})

    def state_dict(self) -> dict[str, Any]:
        """What the rows of a position depend on; every process calls it at the same time."""
        return {**self.batch_sampler.state(), **self.checksums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            UserError: other rows or pictures, another seed, mixture or size of a micro-batch over
                all processes.
        """
        self.batch_sampler.load_state(state)
        check_settings(self.checksums, state)


def check_endless(trainer: L.Trainer) -> None:
    """Raise unless the trainer works without knowing how many rows an epoch has."""
    if trainer.max_steps < 1 or not isinstance(trainer.val_check_interval, int):
        raise UserError(
            "data.streaming: the length of a streamed epoch is unknown, but trainer.max_steps is "
            f"{trainer.max_steps} and trainer.val_check_interval {trainer.val_check_interval}. "
            "Set both, in steps."
        )
