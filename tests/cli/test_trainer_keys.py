"""Every key of Lightning's Trainer is honored by the built trainer, or refused by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelSummary
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.profilers import SimpleProfiler

from dsvl_tune.core.errors import UserError
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.run.stop_request import StopRequest
from dsvl_tune.training.run.trainer import evaluation_trainer, run_loggers, training_trainer
from dsvl_tune.training.run.trainer_keys import REFUSED, TRAINER_DEFAULTS, check_trainer

CSV = "lightning.pytorch.loggers.CSVLogger"
STATS = "lightning.pytorch.callbacks.DeviceStatsMonitor"

Probe = Callable[[Any], Any]

HONORED: dict[str, tuple[Any, Probe, Any]] = {
    "accelerator": ("cpu", lambda trainer: trainer.accelerator.name(), "cpu"),
    "strategy": ("ddp", lambda trainer: type(trainer.strategy).__name__, "DDPStrategy"),
    "devices": (2, lambda trainer: trainer.num_devices, 2),
    "num_nodes": (2, lambda trainer: trainer.num_nodes, 2),
    "precision": ("bf16-mixed", lambda trainer: trainer.precision, "bf16-mixed"),
    "callbacks": (
        [{"class_path": STATS}],
        lambda trainer: [type(one).__name__ for one in trainer.callbacks].count(
            "DeviceStatsMonitor"
        ),
        1,
    ),
    "logger": (
        [{"class_path": CSV, "init_args": {"save_dir": "own"}}],
        lambda trainer: [str(one.save_dir) for one in trainer.loggers],
        ["run", "own"],
    ),
    "max_epochs": (3, lambda trainer: trainer.max_epochs, 3),
    "min_epochs": (2, lambda trainer: trainer.min_epochs, 2),
    "max_steps": (7, lambda trainer: trainer.max_steps, 7),
    "min_steps": (5, lambda trainer: trainer.min_steps, 5),
    "max_time": (
        "00:01:00:00",
        lambda trainer: [
            one._duration for one in trainer.callbacks if type(one).__name__ == "Timer"
        ],
        [timedelta(hours=1).total_seconds()],
    ),
    "limit_train_batches": (4, lambda trainer: trainer.limit_train_batches, 4),
    "limit_val_batches": (0.5, lambda trainer: trainer.limit_val_batches, 0.5),
    "limit_test_batches": (4, lambda trainer: trainer.limit_test_batches, 4),
    "limit_predict_batches": (4, lambda trainer: trainer.limit_predict_batches, 4),
    "val_check_interval": (4, lambda trainer: trainer.val_check_interval, 4),
    "check_val_every_n_epoch": (2, lambda trainer: trainer.check_val_every_n_epoch, 2),
    "num_sanity_val_steps": (1, lambda trainer: trainer.num_sanity_val_steps, 1),
    "log_every_n_steps": (3, lambda trainer: trainer.log_every_n_steps, 3),
    "enable_progress_bar": (False, lambda trainer: trainer.progress_bar_callback, None),
    "enable_model_summary": (
        True,
        lambda trainer: any(isinstance(one, ModelSummary) for one in trainer.callbacks),
        True,
    ),
    "accumulate_grad_batches": (4, lambda trainer: trainer.accumulate_grad_batches, 4),
    "gradient_clip_val": (0.5, lambda trainer: trainer.gradient_clip_val, 0.5),
    "gradient_clip_algorithm": ("value", lambda trainer: trainer.gradient_clip_algorithm, "value"),
    "deterministic": (
        True,
        lambda trainer: torch.are_deterministic_algorithms_enabled(),
        True,
    ),
    "benchmark": (True, lambda trainer: torch.backends.cudnn.benchmark, True),
    "inference_mode": (False, lambda trainer: trainer.validate_loop.inference_mode, False),
    "profiler": ("simple", lambda trainer: isinstance(trainer.profiler, SimpleProfiler), True),
    "detect_anomaly": (True, lambda trainer: trainer._detect_anomaly, True),
    "plugins": (
        [
            {
                "class_path": "lightning.pytorch.plugins.MixedPrecision",
                "init_args": {"precision": "bf16-mixed", "device": "cpu"},
            }
        ],
        lambda trainer: isinstance(trainer.precision_plugin, MixedPrecision),
        True,
    ),
    "sync_batchnorm": (
        True,
        lambda trainer: trainer._accelerator_connector._layer_sync is not None,
        True,
    ),
    "enable_autolog_hparams": (False, lambda trainer: trainer.enable_autolog_hparams, False),
}
"""Key -> a value that is no default, where the built trainer shows it, and what it shows."""

REFUSED_VALUES = {
    "default_root_dir": "elsewhere",
    "fast_dev_run": True,
    "overfit_batches": 2,
    "precision": "bf16-true",
    "enable_checkpointing": False,
    "barebones": True,
    "use_distributed_sampler": True,
    "reload_dataloaders_every_n_epochs": 1,
    "model_registry": "mine",
    "max_time": "00:00:00:00",
}


def test_every_key_of_lightnings_trainer_is_known() -> None:
    keys = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert keys == HONORED.keys() | REFUSED_VALUES.keys()
    assert REFUSED.keys() == REFUSED_VALUES.keys()


def parsed(key: str, value: Any, folder: Path) -> Recipe:
    """A recipe with one key of the trainer."""
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"trainer": {key: value}}), encoding="utf-8")
    return Recipe.parse(recipe_parser(), ["--config", "charts_lora", "--config", str(file)])


@pytest.fixture(autouse=True)
def unchanged_torch() -> Any:
    """Switches of torch that a trainer sets are set back."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.parametrize("key", HONORED)
def test_an_honored_key_reaches_the_trainer_and_config_yaml(key: str, tmp_path: Path) -> None:
    value, probe, expected = HONORED[key]
    recipe = parsed(key, value, tmp_path)
    stored = recipe.settings["trainer"][key]
    written = stored[0] if isinstance(value, list) else stored
    given = value[0] if isinstance(value, list) else value
    if isinstance(given, dict):
        assert written["class_path"] == given["class_path"]
        assert written.get("init_args", {}).items() >= given.get("init_args", {}).items()
    else:
        assert written == given
    settings = recipe.trainer
    if key == "check_val_every_n_epoch":
        settings["val_check_interval"] = None  # charts_lora counts batches
    if key == "plugins":
        settings["precision"] = None
    trainer = training_trainer(
        settings,
        Path("run"),
        StopRequest(None),
        monitor="last",
        metrics=(),
        keep_best=1,
        floor={},
        checkpoint_every_steps=None,
        recipe={},
    )
    assert probe(trainer) == expected


@pytest.mark.parametrize("key", REFUSED_VALUES)
def test_a_refused_key_is_named(key: str, tmp_path: Path) -> None:
    recipe = parsed(key, REFUSED_VALUES[key], tmp_path)
    with pytest.raises(UserError, match=rf"^trainer\.{key}: .*, but .*\. "):
        check_trainer(recipe.trainer)


def test_loggers_of_the_recipe_are_used_in_evaluation_too(tmp_path: Path) -> None:
    value = [{"class_path": CSV, "init_args": {"save_dir": str(tmp_path)}}]
    trainer = evaluation_trainer(parsed("logger", value, tmp_path).trainer)
    assert [type(one) for one in trainer.loggers] == [CSVLogger]
    assert evaluation_trainer(TRAINER_DEFAULTS).loggers == []


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        (None, ["MetricsFile", "RunTensorBoard"]),
        (True, ["MetricsFile", "RunTensorBoard"]),
        (False, ["MetricsFile"]),
        ([], ["MetricsFile"]),
        (CSVLogger("own"), ["MetricsFile", "CSVLogger"]),
        ([CSVLogger("own"), CSVLogger("other")], ["MetricsFile", "CSVLogger", "CSVLogger"]),
    ],
)
def test_tensorboard_is_used_unless_others_are_named(given: Any, kinds: list[str]) -> None:
    assert [type(logger).__name__ for logger in run_loggers(Path("run"), given)] == kinds


class Memory(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.names |= metrics.keys()


def test_an_own_logger_and_callback_see_the_run(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dsvl_tune
    from dsvl_tune.datamodules import ChartsDataModule

    monkeypatch.chdir(tmp_path)
    logger = Memory()
    checkpoint = str(hybrid_checkpoint)
    run = dsvl_tune.fit(
        dsvl_tune.FinetuneModule(checkpoint, max_new_tokens=2),
        ChartsDataModule(
            checkpoint=checkpoint,
            train_charts=2,
            validation_charts=1,
            test_charts=1,
            retention_scenes=0,
            batch_size=1,
        ),
        run_name="mine",
        max_steps=1,
        log_every_n_steps=1,
        val_check_interval=1,
        logger=logger,
        callbacks=[Callback()],
        enable_progress_bar=False,
    )
    assert run.finished
    assert {"train/loss", "val/loss"} <= logger.names
    assert list(run.folder.glob("metrics/version_0/metrics.csv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 9999}, r"^trainer\.devices: 9999, but this machine has "),
        ({"devices": 0}, r"^trainer\.devices: 0, expected a number of processes from 1"),
        ({"devices": "none"}, r"^trainer\.devices: 'none', expected"),
        ({"devices": []}, r"^trainer\.devices: \[\], expected"),
        ({"num_nodes": 2}, r"^trainer\.num_nodes: 2, but neither torchrun nor srun"),
        ({"min_steps": 9, "max_steps": 3}, r"^trainer\.min_steps: 9, but trainer\.max_steps is 3"),
        (
            {"check_val_every_n_epoch": 2, "val_check_interval": 5},
            r"^trainer\.check_val_every_n_epoch: 2, but trainer\.val_check_interval 5",
        ),
    ],
)
def test_the_machine_and_keys_that_contradict(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=message):
        check_trainer({"accelerator": "cpu", **settings})


def test_workers_are_compared_with_the_cores() -> None:
    check_trainer(TRAINER_DEFAULTS, workers=8)
    with pytest.raises(UserError, match=r"^data\.num_workers: 9000, but this machine has "):
        check_trainer(TRAINER_DEFAULTS, workers=9000)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("accelerator", "quantum", "trainer: "),
        ("accelerator", "gpu", "trainer: "),
        ("profiler", "none_such", "trainer: "),
        ("val_check_interval", "soon", "trainer: "),
        ("max_time", "soon", "trainer"),
        ("strategy", "dpp", "Did you mean 'ddp'"),
        ("gradient_clip_algorithm", "cube", "trainer: "),
        ("deterministic", "perhaps", "trainer"),
    ],
)
def test_what_lightning_refuses_is_one_message(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    if key == "accelerator" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")

    def build() -> None:
        settings = parsed(key, value, tmp_path).trainer
        check_trainer(settings)
        evaluation_trainer(settings)

    with pytest.raises(UserError, match=message):
        build()
