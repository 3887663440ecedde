"""A run folder from anyone: no command runs code that its checkpoint brings."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from dsvl_tune.cli.main import main
from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.files import LAST, is_whole, load_torch_file, newest_whole
from dsvl_tune.training.checkpoints.shard_metadata import METADATA
from dsvl_tune.training.checkpoints.shard_reader import fill_from_shards
from dsvl_tune.training.checkpoints.sharded_io import read_folder, write_folder


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def group() -> Any:
    """A process group of one process, which writing shards needs."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def sharded(tmp_path: Path, group: None) -> Path:
    """A folder of shards as a run writes it."""
    weight = torch.randn(40, 5)
    state = {"step": torch.tensor(1.0), "exp_avg": 2 * weight}
    groups = [{"params": [0], "param_names": ["model.weight"], "lr": 1.0}]
    checkpoint = {
        "global_step": 3,
        "state_dict": {"model.weight": weight},
        "optimizer_states": [{"state": {0: state}, "param_groups": groups}],
    }
    write_folder(tmp_path / "last.ckpt", checkpoint)
    return tmp_path / "last.ckpt"


def test_an_intact_folder_is_read(sharded: Path) -> None:
    assert is_whole(sharded)
    read = read_folder(sharded, {}, optimizer=True)
    slots = read["optimizer_states"][0]["state"][0]
    assert torch.equal(2 * read["state_dict"]["model.weight"], slots["exp_avg"])


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "rest"])
def test_damage_to_any_file_is_seen(sharded: Path, damage: str) -> None:
    shard = next(sharded.glob("*.distcp"))
    if damage == "rest":
        shard = sharded / "rest.pt"
    content = bytearray(shard.read_bytes())
    if damage in ("flipped", "rest"):
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[:-20] if damage == "cut" else content)
    assert not is_whole(sharded)


def as_payload(folder: Path, marker: Path, kind: str) -> None:
    """Put a payload into a folder of shards, in the place that torch would unpickle."""
    if kind == "metadata":
        (folder / METADATA).write_bytes(pickle.dumps(Payload(marker)))
        return
    if kind == "within":
        found = dcp.FileSystemReader(folder).read_metadata()
        found.planner_data = Payload(marker)
        (folder / METADATA).write_bytes(pickle.dumps(found))
        return
    shutil.rmtree(folder)
    dcp.save({"state_dict.model.weight": Payload(marker)}, checkpoint_id=folder, no_dist=True)


@pytest.mark.parametrize("kind", ["metadata", "within", "entry"])
def test_what_is_no_tensor_is_refused(sharded: Path, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "ran"
    as_payload(sharded, marker, kind)
    if kind == "entry":
        marker.unlink(missing_ok=True)  # torch pickles an entry, and so reduces it, once
    with pytest.raises(UserError, match=r"\.metadata"):
        read_folder_tensors(sharded)
    assert not marker.exists()


def read_folder_tensors(folder: Path) -> None:
    fill_from_shards({"state_dict.model.weight": torch.empty(40, 5)}, folder)


def test_metadata_of_another_object_is_refused(sharded: Path) -> None:
    (sharded / METADATA).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="found dict"):
        read_folder_tensors(sharded)
    empty = Metadata(state_dict_metadata={}, storage_data={})
    (sharded / METADATA).write_bytes(pickle.dumps(empty))
    with pytest.raises(UserError, match="missing or damaged"):
        read_folder_tensors(sharded)


def test_metadata_cannot_ask_for_more_memory_than_the_folder_has_bytes(sharded: Path) -> None:
    found = dcp.FileSystemReader(sharded).read_metadata()
    entry = found.state_dict_metadata["state_dict.model.weight"]
    entry.size = entry.chunks[0].sizes = torch.Size((1 << 40, 5))
    (sharded / METADATA).write_bytes(pickle.dumps(found))
    with pytest.raises(UserError, match=r"a chunk of 'state_dict\.model\.weight' is not in the"):
        read_folder(sharded, {}, optimizer=True)


def test_tensors_cannot_share_bytes(sharded: Path) -> None:
    found = dcp.FileSystemReader(sharded).read_metadata()
    key = "state_dict.model.weight"
    place = found.storage_data[MetadataIndex(key, torch.Size((0, 0)))]
    for copy in range(100):
        found.state_dict_metadata[f"{key}{copy}"] = found.state_dict_metadata[key]
        found.storage_data[MetadataIndex(f"{key}{copy}", torch.Size((0, 0)))] = place
    (sharded / METADATA).write_bytes(pickle.dumps(found))
    with pytest.raises(UserError, match="tensors share bytes"):
        read_folder(sharded, {}, optimizer=True)


def test_a_pickle_of_few_bytes_takes_little_memory(sharded: Path) -> None:
    """Python's unpickler makes a table as long as the highest number that an object gets."""
    put = pickle.LONG_BINPUT + (1 << 30).to_bytes(4, "little")
    (sharded / METADATA).write_bytes(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + put + b".")
    with pytest.raises(UserError, match="numbers an object 1073741824"):
        read_folder_tensors(sharded)


def test_a_rest_without_what_a_run_writes(sharded: Path) -> None:
    rest = torch.load(sharded / "rest.pt", weights_only=True)
    rest["optimizer_states"][0]["param_groups"][0]["params"] = [7]
    torch.save(rest, sharded / "rest.pt")
    assert read_folder(sharded, {}, optimizer=True)["optimizer_states"][0]["state"].keys() == {7}
    rest["optimizer_states"][0]["param_groups"][0]["param_names"] = ["other"]
    torch.save(rest, sharded / "rest.pt")
    with pytest.raises(UserError, match="optimizer state of 'model.weight'"):
        read_folder(sharded, {}, optimizer=True)
    rest["optimizer_states"][0]["param_groups"] = 7
    torch.save(rest, sharded / "rest.pt")
    with pytest.raises(UserError, match="param_groups of the optimizer are missing"):
        read_folder(sharded, {}, optimizer=True)


@pytest.mark.parametrize("command", ["resume", "fit", "merge", "test", "predict"])
def test_no_command_runs_what_a_checkpoint_brings(
    whole_run: Path,
    sharded: Path,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sharded last checkpoint with a payload, next to intact other files of the run."""
    run = tmp_path / "runs" / "run"
    shutil.copytree(whole_run, run)
    (run / "summary.json").unlink()
    (run / LAST).unlink()
    shutil.copytree(sharded, run / LAST)
    marker = tmp_path / "ran"
    as_payload(run / LAST, marker, "metadata")
    config = str(run / "config.yaml")
    arguments = {
        "resume": ["fit", "--config", config, "--run_dir", str(tmp_path / "runs")],
        "fit": ["fit", "--config", config, "--ckpt_path", str(run / LAST)],
        "merge": ["merge", str(run), "--checkpoint", str(run / LAST), "--rows", "0"],
        "test": ["test", "--config", config, "--ckpt_path", str(run / LAST)],
        "predict": ["predict", "--config", config, "--ckpt_path", str(run / LAST)],
    }[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dsvl-tune", *arguments])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    assert not marker.exists()
    # Resuming takes the intact checkpoint before it; a named one is refused.
    assert code == (0 if command == "resume" else 2)


FIT = ("loops", "fit_loop")
STEPS = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step")
BEST = ("callbacks", "ModelCheckpoint")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("global_step",), -1, "global_step is no count"),
        (("global_step",), True, "global_step is no count"),
        (("nonfinite_steps",), -5, "nonfinite_steps is no count"),
        (("interval",), [torch.zeros(1).expand(1 << 40, 2)], "interval has no sums"),
        (("interval",), [-torch.ones(3, 2)], "interval has no sums"),
        (("pytorch-lightning_version",), "1.0", "pytorch-lightning_version"),
        ((*STEPS, "total", "completed"), 10**6, "at another step"),
        ((*STEPS, "current", "ready"), -1, "current.ready is no count"),
        ((*STEPS, "total", "reset"), 1, "other counts than a loop"),
        ((*FIT, "epoch_loop.batch_progress", "is_last_batch"), 7, "neither true nor false"),
        ((*FIT, "epoch_loop.batch_progress", "current"), [], "is no progress of a loop"),
        ((*FIT, "state_dict", "combined_loader"), {"a": 1}, "no list of states"),
        (("lr_schedulers", 0, "last_epoch"), "x", "last_epoch of the schedule"),
        (("lr_schedulers", 0, "_last_lr"), [float("nan")], "_last_lr of the schedule"),
        (("callbacks", "HeldOutEvaluation", "before"), {"a": float("nan")}, "before of HeldOut"),
        (("callbacks", "HeldOutEvaluation", "before"), {"a": torch.ones(1)}, "before of HeldOut"),
        (("callbacks", "LastCheckpoint", "logged_rows"), 1 << 60, "logged_rows of LastCheckpoint"),
        ((*BEST, "best_k_models"), {"../../config.yaml": 0.5}, "not in its folder"),
        ((*BEST, "best_model_path"), "/etc/hostname", "not in its folder"),
        ((*BEST, "best_model_score"), "x", "a score of ModelCheckpoint"),
        (("state_dict", "x"), torch.zeros(2, 2).to_sparse(), "is no tensor"),
        (("state_dict", "x"), torch.empty(2, device="meta"), "is no tensor"),
    ],
)
def test_a_state_that_no_run_writes(
    whole_run: Path, tmp_path: Path, path: tuple[Any, ...], value: Any, said: str
) -> None:
    checkpoint = torch.load(whole_run / LAST, weights_only=True)
    inner = checkpoint
    for key in path[:-1]:
        if key == "ModelCheckpoint":  # Lightning adds its arguments
            key = next(name for name in inner if name.startswith(key))
        inner = inner[key]
    if isinstance(value, dict):
        value = {
            name.replace("PLACE", inner.get("dirpath", "")): one for name, one in value.items()
        }
    inner[path[-1]] = value
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=said):
        load_torch_file(tmp_path / "last.ckpt")


def test_a_damaged_sharded_checkpoint_gives_way_to_the_one_before(
    whole_run: Path, sharded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "run"
    shutil.copytree(whole_run, run)
    (run / LAST).unlink()
    shutil.copytree(sharded, run / LAST)
    assert newest_whole(run) == run / LAST
    shard = next((run / LAST).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    found = newest_whole(run)
    assert found is not None and found.name == "previous.ckpt"
