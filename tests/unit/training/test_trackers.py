"""Runs with each tracker, offline, and what the tracker's own reader then finds."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dsvl_tune
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.training.run.metrics_file import METRICS
from dsvl_tune.training.trackers.continued_run import continue_tracker_run
from dsvl_tune.training.trackers.mlflow_names import mlflow_name
from dsvl_tune.training.trackers.samples import COLUMNS, shown_answers
from dsvl_tune.training.trackers.trackio_logger import TrackioLogger

SPEEDS = {"speed/tokens_per_s", "speed/images_per_s", "speed/data_s", "speed/compute_s"}
LOGGED = {
    "train/loss",
    "train/loss_image",
    "train/grad_norm",
    "lr/language_model",
    "val/loss",
    "val/relaxed_accuracy",
    "val_low/relaxed_accuracy",
    "val_high/relaxed_accuracy",
    "test/relaxed_accuracy",
    "test_low/relaxed_accuracy",
    "scenes/relaxed_accuracy",
    "scenes_high/relaxed_accuracy",
    "memory/rss_gib",
    *SPEEDS,
}
"""What every tracker gets."""


class Fail(L.Callback):
    """Ends a run in the middle, once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            raise OSError("the disk is gone")


@pytest.fixture
def fit(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dsvl_tune.Run]:
    """A run of six steps with three validations."""
    monkeypatch.chdir(tmp_path)
    checkpoint = str(hybrid_checkpoint)

    def fit(**options: Any) -> dsvl_tune.Run:
        return dsvl_tune.fit(
            dsvl_tune.FinetuneModule(checkpoint, max_new_tokens=2),
            ChartsDataModule(
                checkpoint=checkpoint,
                train_charts=6,
                validation_charts=2,
                test_charts=1,
                retention_scenes=1,
                questions=2,
                batch_size=1,
            ),
            run_name="mine",
            max_steps=6,
            log_every_n_steps=1,
            val_check_interval=2,
            enable_progress_bar=False,
            accelerator="cpu",
            **options,
        )

    return fit


def events(run: dsvl_tune.Run) -> EventAccumulator:
    """What TensorBoard shows of a run."""
    found = EventAccumulator(str(run.folder / "tensorboard"), {"images": 0, "tensors": 0})
    return found.Reload()


def test_tensorboard_is_the_default_and_resumes_without_repeating_a_step(
    fit: Callable[..., dsvl_tune.Run],
) -> None:
    fail = Fail(step=4)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(callbacks=[fail], checkpoint_every_steps=3)
    run = fit(callbacks=[fail], checkpoint_every_steps=3)
    found = events(run)
    tags = found.Tags()
    assert set(tags["scalars"]) >= LOGGED
    steps = {name: [point.step for point in found.Scalars(name)] for name in LOGGED}
    assert_no_step_is_repeated(steps)
    assert [image.step for image in found.Images("samples/1")] == [1]
    texts = [
        (one.step, one.tensor_proto.string_val[0].decode())
        for one in found.Tensors("samples/1/text_summary")
    ]
    assert [step for step, _ in texts] == [1, 3, 5]
    assert all(f"**{title}**" in text for _, text in texts for title in COLUMNS[:4])
    settings = found.summary_metadata["_hparams_/session_start_info"]
    assert b"model.lr" in settings.plugin_data.content


def assert_no_step_is_repeated(steps: dict[str, list[int]]) -> None:
    """The points of the run that was stopped after step 4 and resumed from step 3.

    Args:
        steps: of the points of each logged name.
    """
    assert steps["train/loss"] == [0, 1, 2, 3, 4, 5]
    assert steps["val/relaxed_accuracy"] == [1, 3, 5]
    assert steps["test/relaxed_accuracy"] == [0, 6]
    assert all(one < other for points in steps.values() for one, other in pairwise(points))


def test_speed_and_memory_are_not_in_the_file_that_equal_runs_share(
    fit: Callable[..., dsvl_tune.Run],
) -> None:
    run = fit(logger=False)
    header = (run.folder / METRICS).read_text().partition("\n")[0].split(",")
    assert "val_low/relaxed_accuracy" in header and "train/grad_norm" in header
    assert not SPEEDS & set(header)
    assert not (run.folder / "tensorboard").exists()


def test_several_trackers_at_once(
    fit: Callable[..., dsvl_tune.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="W&B is not installed (extra wandb)")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_SILENT", "true")
    fail = Fail(step=4)

    def start() -> Remember:
        """Each with loggers of its own, as a process has them."""
        first = Remember()
        try:
            fit(
                logger=[first, WandbLogger(save_dir=tmp_path, offline=True, project="mine")],
                callbacks=[fail],
                checkpoint_every_steps=3,
            )
        finally:
            wandb.finish()
        return first

    with pytest.raises(OSError, match="the disk is gone"):
        start()
    assert start().names >= LOGGED
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one run of W&B
    rows, config = [], {}
    for file in files:
        for record in whole_log(file, Record):
            items = {
                ".".join(one.nested_key) or one.key: json.loads(one.value_json)
                for one in record.history.item
            }
            rows += [items] if items else []
            config |= {one.key: json.loads(one.value_json) for one in record.config.update}
    assert {name for row in rows for name in row} >= LOGGED
    assert_no_step_is_repeated(
        {
            name: [row["trainer/global_step"] for row in rows if name in row]
            for name in (*LOGGED, "samples.path")
        }
    )
    assert config["model.max_new_tokens"] == 2
    tables = [json.loads(path.read_text()) for path in tmp_path.rglob("*.table.json")]
    assert len(tables) == 3
    assert all(table["columns"] == COLUMNS and len(table["data"]) == 4 for table in tables)


def whole_log(file: Path, record: Any) -> list[Any]:
    """W&B's records, once its process has written the last one: `finish` does not wait for that."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [record.FromString(content) for content in level_db_records(file)]
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file}: no end after {len(found)} records")


def level_db_records(file: Path) -> Iterator[bytes]:
    """Records of a LevelDB log, as W&B writes it behind seven bytes of its own.

    A record is cut into chunks, each with a checksum, a length and a place: 1 is a whole record,
    2 its first, 3 a middle and 4 its last chunk. No chunk crosses a block of 32 KiB.
    """
    content = file.read_bytes()
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if place + 7 + length > len(content):  # still being written
            return
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_trackio(
    fit: Callable[..., dsvl_tune.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed (extra trackio)")
    from trackio.sqlite_storage import SQLiteStorage

    fail = Fail(step=4)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(logger=TrackioLogger("charts"), callbacks=[fail], checkpoint_every_steps=3)
    fit(logger=TrackioLogger("charts"), callbacks=[fail], checkpoint_every_steps=3)
    (name,) = SQLiteStorage.get_runs("charts")
    rows = SQLiteStorage.get_logs("charts", name)
    assert_no_step_is_repeated(
        {name: sorted(row["step"] for row in rows if name in row) for name in (*LOGGED, "samples")}
    )
    tables = [row["samples"] for row in rows if "samples" in row]
    assert len(tables) == 3
    assert all(set(line) == set(COLUMNS) for table in tables for line in table["_value"])
    assert SQLiteStorage.get_run_config("charts", name)["model.max_new_tokens"] == 2


def test_mlflow_with_its_file_store(
    fit: Callable[..., dsvl_tune.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file store, because names collide there: a metric is a file, what it begins a folder."""
    pytest.importorskip("mlflow", reason="MLflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    fail = Fail(step=4)
    stopped, logger = (MLFlowLogger(save_dir=str(tmp_path / "mlruns")) for _ in range(2))
    with pytest.raises(OSError, match="the disk is gone"):
        fit(logger=stopped, callbacks=[fail], checkpoint_every_steps=3)
    fit(logger=logger, callbacks=[fail], checkpoint_every_steps=3)
    assert logger.run_id == stopped.run_id
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics.keys() >= LOGGED
    assert any(name.startswith("val/relaxed_accuracy.") for name in run.data.metrics)
    assert run.info.status == "FINISHED"
    assert_no_step_is_repeated(
        {
            name: [
                point.step
                for point in logger.experiment.get_metric_history(logger.run_id, mlflow_name(name))
            ]
            for name in LOGGED
        }
    )
    assert run.data.params["model.max_new_tokens"] == "2"
    files = {item.path for item in logger.experiment.list_artifacts(logger.run_id, "samples")}
    assert {f"samples/step-00000{step}.json" for step in (1, 3, 5)} < files
    assert "samples/1.png" in files


def test_what_a_kill_has_cut_is_logged_again_and_a_chosen_run_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    journal = tmp_path / "run" / "journal.jsonl"
    journal.parent.mkdir()

    def start(steps: list[int], **options: Any) -> tuple[str | None, list[int]]:
        """Log some steps as a run does that is started (again), and read back what is there."""
        logger = MLFlowLogger(save_dir=str(tmp_path / "mlruns"), **options)
        continue_tracker_run(logger, journal)
        for step in steps:
            logger.log_metrics({"train/loss": 1.0}, step)
        history = logger.experiment.get_metric_history(logger.run_id, "train/loss")
        return logger.run_id, [point.step for point in history]

    first, _ = start([0, 1, 2])
    journal.write_text(journal.read_text()[:-3])
    assert start([1, 2, 3]) == (first, [0, 1, 2, 2, 3])
    assert start([2, 3, 4]) == (first, [0, 1, 2, 2, 3, 4])
    chosen = MLFlowLogger(save_dir=str(tmp_path / "mlruns")).run_id
    assert start([4, 5], run_id=chosen) == (chosen, [4, 5])
    assert start([5, 6]) == (chosen, [4, 5, 6])


def test_no_mlflow_name_is_a_folder_of_another() -> None:
    names = ["val/anls", "val/anls/table", "val/anls/a/b", "val/anls/年", "val/anls/月", "epoch"]
    names += ["train/loss", "train/loss/a/b", "train/loss/a.b", "train/loss/a b"]
    written = [mlflow_name(name) for name in names]
    assert len(set(written)) == len(names)
    assert not [one for one in written for other in written if other.startswith(f"{one}/")]


@pytest.mark.parametrize("number", [1, 3, 8, 9, 100])
def test_the_shown_questions_are_spread_over_the_set(number: int) -> None:
    answers: Any = list(range(number))
    shown = shown_answers(answers)
    assert shown[0] == 0 and shown[-1] == number - 1
    assert len(set(shown)) == len(shown) == min(8, number)
    assert len(set(np.diff(shown))) <= 2


class Remember(Logger):
    """A logger of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    @property
    def name(self) -> str:
        return "remember"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.names |= metrics.keys()
