"""Reading torch's distributed checkpoints without unpickling what they bring.

torch's own reader unpickles `.metadata`, which can run code, and its default planner unpickles
every entry that is not a tensor. Here `.metadata` is read by `shard_metadata`, and only tensors are
read.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import ReadItem

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.shard_metadata import read_metadata


class ShardReader(dcp.FileSystemReader):
    """torch's reader of a folder of shards, with metadata that were read before.

    Args:
        folder: of the checkpoint.
        found: its metadata.
    """

    def __init__(self, folder: Path, found: metadata.Metadata) -> None:
        super().__init__(folder)
        self.found = found

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        found = self.found
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class TensorsOnly(dcp.DefaultLoadPlanner):
    """torch's planner without entries that are no tensors, which it would unpickle."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise UserError(f"checkpoint entry {read_item.dest_index.fqn!r} is not a tensor")


def fill_from_shards(
    tensors: dict[str, Tensor], folder: Path, found: metadata.Metadata | None = None
) -> None:
    """Fill tensors, by their keys, from a folder of shards; each rank on its own.

    Args:
        tensors: of the stored shapes, or DTensors of them; any dtype.
        folder: of the checkpoint.
        found: its metadata; None reads them.

    Raises:
        UserError: `.metadata` is not what torch writes, or a shard is missing or damaged.
    """
    reader = ShardReader(folder, found or read_metadata(folder))
    try:
        dcp.load(tensors, storage_reader=reader, planner=TensorsOnly(), no_dist=True)
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise UserError(
            f"{folder}: a shard is missing or damaged ({type(error).__name__}). Use another "
            "checkpoint, or start a new run with --resume never."
        ) from error
