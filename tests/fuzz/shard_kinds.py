"""Damaged checkpoints of sharded runs: shards, their metadata and checksums, and the rest."""

from __future__ import annotations

import io
import json
import pickle
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from damage import VALUES, damage_bytes, places
from frame import Case, Kind
from torch import distributed
from torch.distributed.checkpoint import filesystem, metadata

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.files import FOLDER, LAST, PREVIOUS, REST, newest_whole
from dsvl_tune.training.checkpoints.shard_checksums import CHECKSUMS
from dsvl_tune.training.checkpoints.shard_metadata import METADATA
from dsvl_tune.training.checkpoints.sharded_io import (
    read_checkpoint,
    trained_tensors,
    write_folder,
)

NAMES = ["model.w", "model.v"]
"""Names of the trained tensors."""
ODD_SIZES = [(-1, 4), (0,), (), (1 << 40, 1 << 20), (400,), (20, 10), ("x",), (1.5,), None]


@cache
def sharded_checkpoint(step: int) -> dict[str, bytes]:
    """The files of a folder of shards as a rank writes it; every number in it is `step`."""
    tensors = {name: torch.full((20, 20), float(step)) for name in NAMES}
    slots = {number: {"exp_avg": tensor.clone()} for number, tensor in enumerate(tensors.values())}
    groups = [{"params": list(slots), "param_names": NAMES, "lr": 0.1}]
    checkpoint = {
        "run": "a",
        "global_step": step,
        "state_dict": tensors,
        "optimizer_states": [{"state": slots, "param_groups": groups}],
        "callbacks": {"best": {"best_model_path": "best.ckpt"}},
    }
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "written"
            write_folder(path, checkpoint)
            return {file.name: file.read_bytes() for file in path.iterdir()}
    finally:
        distributed.destroy_process_group()


def damaged_shards(folder: Path, chance: Random) -> Case:
    """The last folder of shards damaged, or both: never a damaged one is taken."""
    both = chance.random() < 0.3
    for name, step in {LAST: 2, PREVIOUS: 1}.items():
        files = dict(sharded_checkpoint(step))
        if name == LAST or both:
            damage_files(files, chance)
        write_files(folder / name, files)

    def check(result: object) -> None:
        assert both or result is not None
        if result is not None:
            assert isinstance(result, tuple)
            name, checkpoint = result
            step = 2 if name == LAST.name else 1
            assert checkpoint["global_step"] == step
            (state,) = checkpoint["optimizer_states"]
            slots = [slot for one in state["state"].values() for slot in one.values()]
            tensors = [*checkpoint["state_dict"].values(), *slots]
            assert len(tensors) == 2 * len(NAMES)
            assert all(bool((tensor == step).all()) for tensor in tensors)

    return Case(lambda: read_newest(folder), check)


def crafted_shards(folder: Path, chance: Random) -> Case:
    """A folder of shards with checksums that fit, whose content is not what a run writes."""
    files = dict(sharded_checkpoint(2))
    way = chance.random()
    if way < 0.4:
        files[METADATA] = crafted_metadata(files[METADATA], chance)
    elif way < 0.7:
        files[REST] = crafted_rest(files[REST], chance)
    else:
        damage_files(files, chance)
    listed = {
        name: (len(content), zlib.crc32(content))
        for name, content in files.items()
        if name not in (CHECKSUMS, REST)
    }
    files[CHECKSUMS] = json.dumps(listed).encode()
    write_files(folder / LAST, files)
    return Case(lambda: read_newest(folder))


def read_newest(folder: Path) -> object:
    """What fit, merge and predict read: the newest intact checkpoint, and named ones."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name in (LAST, PREVIOUS):  # as --ckpt_path and --checkpoint name them
        with suppress(UserError):
            names, read = trained_tensors(folder / name)
            for tensor in names:
                read(tensor)
    found = newest_whole(folder, "a")
    return None if found is None else (found.name, read_checkpoint(found, {}, optimizer=True))


def damage_files(files: dict[str, bytes], chance: Random) -> None:
    """Damage, remove or replace one file of a folder, in place."""
    name = chance.choice(sorted(files))
    way = chance.random()
    if way < 0.8:
        files[name] = damage_bytes(files[name], chance)
    elif way < 0.9:
        del files[name]
    else:
        files[name] = files[chance.choice(sorted(files))]


def crafted_metadata(content: bytes, chance: Random) -> bytes:
    """`.metadata` of classes that torch writes there, with other values."""
    found: Any = pickle.loads(content)
    key = chance.choice(sorted(found.state_dict_metadata))
    entry: Any = found.state_dict_metadata[key]
    index = next(place for place in found.storage_data if place.fqn == key)
    place: Any = found.storage_data[index]
    way = chance.randrange(8)
    if way == 0:
        entry.size = chance.choice(ODD_SIZES)
    elif way == 1:
        entry.chunks[0].sizes = chance.choice(ODD_SIZES)
    elif way == 2:
        entry.chunks[0].offsets = chance.choice(ODD_SIZES)
    elif way == 3:
        entry.chunks = chance.choice([[], entry.chunks * 2, None, [7]])
    elif way == 4:
        entry.properties.dtype = chance.choice([torch.int8, torch.bool, torch.float64, None, "x"])
    elif way == 5:
        found.storage_data[index] = filesystem._StorageInfo(
            relative_path=chance.choice([place.relative_path, "", ".", "..", "/etc/passwd", 7]),
            offset=chance.choice([place.offset, -1, 1 << 50, "x"]),
            length=chance.choice([place.length, -1, 0, 1 << 50]),
        )
    elif way == 6:
        found.state_dict_metadata[chance.choice(["state_dict.x", "optimizer.x", 7, ""])] = entry
    else:
        renamed = chance.choice(["state_dict.", "optimizer.model.w", "optimizer..exp_avg", "x"])
        found.state_dict_metadata[renamed] = found.state_dict_metadata.pop(key)
        found.storage_data[metadata.MetadataIndex(renamed, index.offset, index.index)] = place
    return pickle.dumps(found)


def crafted_rest(content: bytes, chance: Random) -> bytes:
    """`rest.pt` with one of its values replaced or removed."""
    rest: Any = torch.load(io.BytesIO(content), weights_only=True)
    path = chance.choice([one for one in places(rest) if one])
    inner = rest
    for key in path[:-1]:
        inner = inner[key]
    if chance.random() < 0.3:
        del inner[path[-1]]
    else:
        inner[path[-1]] = chance.choice([one for one in VALUES if small(one)])
    file = io.BytesIO()
    torch.save(rest, file)
    return file.getvalue()


def small(value: object) -> bool:
    """Whether a value can be pickled: deeply nested ones cannot."""
    try:
        return len(pickle.dumps(value)) < 1000
    except RecursionError:
        return False


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files of a folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


SHARD_KINDS: dict[str, Kind] = {
    "shards": damaged_shards,
    "crafted_shards": crafted_shards,
}
"""Kind of damage to a sharded run checkpoint -> what does it."""
