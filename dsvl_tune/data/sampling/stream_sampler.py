"""Rows of streams: read in the training process, parsed and encoded by the loader's workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

from torch import distributed

from dsvl_tune.data.readers.base import Record
from dsvl_tune.data.readers.stream import Stream
from dsvl_tune.data.sampling.batch_sampler import BatchSampler
from dsvl_tune.data.sampling.row_orders import StreamOrder

LANES = "lanes"
COUNTS = "rows of the shards"


class LaneSampler(BatchSampler):
    """A sampler whose sources may be streams, which it reads in lanes.

    Row p of a micro-batch, counted over all processes, comes from lane p % num_lanes. Process r
    takes the rows p % world_size == r, so with one lane per process it reads its own lane and no
    other. A run keeps the number of lanes that it was started with: resumed by another number of
    processes, with the same number of rows per micro-batch, a step still sees the same rows, but
    a process may have to read several lanes.

    Args:
        batch_size: rows of a micro-batch on one process.
        streams: the streams among the sources.
        **options: as in `BatchSampler`.
    """

    def __init__(self, batch_size: int, streams: Sequence[Stream], **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.streams = streams
        self.num_lanes = choose_lanes(streams, self.world_size)

    def deal(self, lane_rows: Callable[[int], Sequence[Any]]) -> list[Any]:
        """This process's rows of a micro-batch.

        Args:
            lane_rows: a lane's number to its rows in the micro-batch.
        """
        places = range(self.rank, self.total_rows, self.world_size)
        rows = {lane: lane_rows(lane) for lane in {place % self.num_lanes for place in places}}
        return [rows[place % self.num_lanes][place // self.num_lanes] for place in places]

    def state(self) -> dict[str, Any]:
        """The settings, the number of lanes, and the shards that were read to their end."""
        counts = [dict(stream.counts) for stream in self.streams]
        if self.num_lanes > 1:
            counts = merged_over_processes(counts)
        return {**self.settings(), LANES: self.num_lanes, COUNTS: counts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume with the lanes of the checkpoint; shards that it counted are skipped unopened."""
        super().load_state(state)
        self.num_lanes = state[LANES]
        for stream, counts in zip(self.streams, state[COUNTS], strict=True):
            stream.counts.update(counts)


class StreamSampler(LaneSampler):
    """The rows of one stream, without an end.

    Args:
        stream: the rows.
        batch_size: rows of a micro-batch on one process.
        **options: as in `BatchSampler`, without `seed`, which is the stream's.
    """

    epoch_batches = None

    def __init__(self, stream: Stream, batch_size: int, **options: Any) -> None:
        super().__init__(batch_size, [stream], seed=stream.seed, **options)
        self.order = StreamOrder(stream)

    def rows_at(self, batch: int) -> list[Record]:
        """Records of the rows of micro-batch number `batch` on this process."""
        rows = self.total_rows // self.num_lanes
        return self.deal(lambda lane: self.order.keys(lane, self.num_lanes, batch * rows, rows))

    def settings(self) -> dict[str, int]:
        """What the rows of a position depend on."""
        (stream,) = self.streams
        return {
            "shards": len(stream.shards),
            "names of the shards (checksum)": names_checksum(stream),
            "seed": stream.seed,
            "rows of a micro-batch over all processes": self.total_rows,
        }


def choose_lanes(streams: Sequence[Stream], world_size: int) -> int:
    """One lane per process if a stream has a shard for each of them, else a single one."""
    return world_size if any(len(stream.shards) >= world_size for stream in streams) else 1


def names_checksum(stream: Stream) -> int:
    """CRC-32 of the shards' names without their folders."""
    names = [shard.replace("\\", "/").rpartition("/")[2] for shard in stream.shards]
    return crc32(repr(names).encode())


def merged_over_processes(counts: list[dict[int, int]]) -> list[dict[int, int]]:
    """Counts of each stream's shards from all processes: each counts those of its own lanes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return counts
    gathered: list[list[dict[int, int]]] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(gathered, counts)
    merged = [dict(own) for own in counts]
    for others in gathered:
        for own, other in zip(merged, others, strict=True):
            own.update(other)
    return merged
