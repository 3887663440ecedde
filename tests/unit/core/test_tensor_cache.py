"""Entries are whole or a miss: after kills at any moment, concurrent writers, damage, full disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from forking import fork
from safetensors.torch import load_file

from dsvl_tune.core.storage import tensor_cache
from dsvl_tune.core.storage.tensor_cache import TensorCache

SHAPES = {"low": (4, 8), "high": (16, 3)}


def open_cache(
    root: Path, dtype: torch.dtype = torch.float32, max_bytes: int = 1 << 30
) -> TensorCache:
    return TensorCache(root, "one", SHAPES, dtype, max_bytes)


def entry(number: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(number)
    return {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}


def key(number: int) -> str:
    return f"{number:064x}"[::-1]


def is_entry(got: dict[str, torch.Tensor] | None, number: int) -> bool:
    return got is not None and all(
        torch.equal(got[name], tensor) for name, tensor in entry(number).items()
    )


def in_child(work: Callable[[], None]) -> int:
    """The process id of a forked child that does the work."""
    torch.set_num_threads(1)  # the parent's threads are not in a child
    return fork(work)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    assert store.get(key(1)) is None and not store.has(key(1))
    assert store.put(key(1), entry(1)) and store.has(key(1))
    assert is_entry(store.get(key(1)), 1) and is_entry(load_file(store.path(key(1))), 1)
    rounded = open_cache(tmp_path / "rounded", torch.bfloat16)
    rounded.put(key(2), entry(2))
    got = rounded.get(key(2))
    assert got is not None
    for name, tensor in entry(2).items():
        assert torch.equal(got[name], tensor.bfloat16())
        assert ((got[name].float() - tensor).abs() <= tensor.abs() * 2**-8).all()


def test_every_flipped_byte_and_every_cut_is_a_miss(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put(key(1), entry(1))
    path = store.path(key(1))
    whole = path.read_bytes()
    body = 8 + int.from_bytes(whole[:8], "little")
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        got = store.get(key(1))
        assert got is None or (place < body and is_entry(got, 1)), place
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert not store.has(key(1)) and store.get(key(1)) is None
        assert not path.exists()  # so that it is made again
    path.write_bytes(whole + b"more")
    assert store.get(key(1)) is None


def test_another_images_entry_is_a_miss(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put(key(1), entry(1))
    store.path(key(2)).parent.mkdir(exist_ok=True, parents=True)
    shutil.copy(store.path(key(1)), store.path(key(2)))
    assert not store.has(key(2)) and store.get(key(2)) is None


def test_entries_of_other_shapes_are_a_miss(tmp_path: Path) -> None:
    open_cache(tmp_path).put(key(1), entry(1))
    assert (
        TensorCache(tmp_path, "one", {**SHAPES, "low": (8, 4)}, torch.float32, 1 << 30).get(key(1))
        is None
    )
    open_cache(tmp_path).put(key(1), entry(1))
    assert (
        TensorCache(tmp_path, "one", {**SHAPES, "more": (1,)}, torch.float32, 1 << 30).get(key(1))
        is None
    )


def test_the_first_axis_may_be_shorter(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for number, length in enumerate((1, 3, 4, 5, 0)):
        tensors = {"low": torch.rand(length, 8), "high": torch.rand(1, 3)}
        cache.put(key(number), tensors)
        got = cache.get(key(number))
        assert (got is not None) == (1 <= length <= 4)
        assert got is None or torch.equal(got["low"], tensors["low"])


def test_writers_that_are_killed_leave_whole_entries_or_none(tmp_path: Path) -> None:
    """Three write the same keys in different orders; each is killed at a different moment."""
    numbers = range(200)

    def write(step: int) -> None:
        store = open_cache(tmp_path)
        for turn in range(1000):
            for i in numbers:
                store.put(key(i * step % len(numbers)), entry(i * step % len(numbers)))
            shutil.rmtree(tmp_path / "one" / "00", ignore_errors=True) if turn % 2 else None

    for turn in range(8):
        children = [in_child(partial(write, step)) for step in (1, 3, 7)]
        while not any(tmp_path.rglob("*.safetensors")):
            time.sleep(0.001)
        time.sleep(0.013 * turn)
        for child in children:
            os.kill(child, signal.SIGKILL)
            assert exit_code(child) == -signal.SIGKILL
        reader = open_cache(tmp_path)
        found = [reader.get(key(i)) for i in numbers]
        assert all(got is None or is_entry(got, i) for i, got in enumerate(found))
        assert any(got is not None for got in found)


def test_a_writer_that_dies_in_the_middle_of_a_file_leaves_a_miss(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills it at the 301st byte
        open_cache(tmp_path).put(key(1), entry(1))

    assert exit_code(in_child(work)) == -signal.SIGXFSZ
    assert [path.stat().st_size for path in tmp_path.rglob("*.partial")] == [300]
    store = open_cache(tmp_path)
    assert not store.has(key(1)) and store.get(key(1)) is None
    assert store.put(key(1), entry(1)) and is_entry(store.get(key(1)), 1)


def test_what_killed_writers_left_is_taken_away(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put(key(1), entry(1))
    left, fresh = (store.path(key(1)).with_name(f".{name}.partial") for name in ("old", "new"))
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (1, 1))
    assert tensor_cache.folder_bytes(tmp_path) == store.path(key(1)).stat().st_size + 4
    assert not left.exists() and fresh.exists()


def test_the_bound_is_held_and_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_cache(tmp_path, max_bytes=10_000)
    kept = [store.put(key(i), entry(i)) for i in range(40)]
    assert 0 < sum(kept) < 40 and sum(kept) == len(list(tmp_path.rglob("*.safetensors")))
    assert tensor_cache.folder_bytes(tmp_path) <= 10_000
    assert capsys.readouterr().out.count("nothing more is added") == 1
    assert is_entry(store.get(key(0)), 0)


def test_the_bound_counts_what_other_writers_add(tmp_path: Path) -> None:
    one, other = (open_cache(tmp_path, max_bytes=200_000) for _ in range(2))
    for i in range(400):
        (one if i % 2 else other).put(key(i), entry(i))
    assert one.closed and other.closed
    assert tensor_cache.folder_bytes(tmp_path) <= 200_000 + tensor_cache.COUNT_EVERY * 1000


def test_a_disk_without_room_stops_filling(tmp_path: Path) -> None:
    store = open_cache(tmp_path)
    store.put(key(0), entry(0))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        assert not store.put(key(1), entry(1)) and "large" in store.closed
        assert not store.put(key(2), entry(2)) and is_entry(store.get(key(0)), 0)

    assert exit_code(in_child(work)) == 0
    assert [path.name for path in tmp_path.rglob("*.*")] == [store.path(key(0)).name]


def test_the_last_of_a_disk_is_left_to_the_run(
    tmp_path: Path,
) -> None:
    total = shutil.disk_usage(tmp_path).total
    store = replace(open_cache(tmp_path), kept_free_bytes=total)
    assert not store.put(key(1), entry(1)) and "left" in store.closed


def test_a_folder_that_may_only_be_read_still_gives_hits() -> None:
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        root.chmod(0o755)
        open_cache(root).put(key(0), entry(0))
        damaged = open_cache(root).path(key(1))
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_bytes(b"nothing")
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            folder.chmod(0o555)

        def work() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            store = open_cache(root)
            assert is_entry(store.get(key(0)), 0) and store.get(key(1)) is None
            assert not store.put(key(2), entry(2)) and store.closed

        assert exit_code(in_child(work)) == 0
    finally:
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        shutil.rmtree(root)
