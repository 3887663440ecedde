"""Fine-tune a model and write a run folder: what the command `fit` calls."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L

from dsvl_tune.api.reports import write_run_report
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.evaluation.run_summary import next_step_text, summary_text
from dsvl_tune.recipe.describe import describe_run
from dsvl_tune.recipe.recipe import read_settings
from dsvl_tune.training.callbacks.forgetting_guard import check_floor
from dsvl_tune.training.callbacks.monitor_check import check_monitor, chosen_monitor
from dsvl_tune.training.distributed.rank_agreement import (
    decided_by_first,
    die_with_first,
    is_first,
)
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.checks import check_rows_reach, set_up_fit
from dsvl_tune.training.run.error_messages import explained_errors, keyboard_interrupts
from dsvl_tune.training.run.folder import SUMMARY, place_run, write_settings
from dsvl_tune.training.run.inputs import MANIFEST, check_inputs, read_manifest, run_inputs
from dsvl_tune.training.run.lock import one_at_a_time
from dsvl_tune.training.run.manifest import manifest
from dsvl_tune.training.run.quiet import quiet_lightning
from dsvl_tune.training.run.stop_request import RunStopped, StopRequest
from dsvl_tune.training.run.threads import use_free_cores
from dsvl_tune.training.run.trainer import configuration_errors, training_trainer
from dsvl_tune.training.run.trainer_keys import TRAINER_DEFAULTS, check_trainer


@dataclass(frozen=True)
class Run:
    """A run that `fit` has ended.

    Attributes:
        folder: Run folder, with `summary.json`, `adapter/`, `predictions/` and `checkpoints/`.
        exit_code: 0 if the run is finished; 75 if it was stopped by a signal or its time limit, 130
            by Ctrl-C. The same call resumes a stopped run.
    """

    folder: Path
    exit_code: int = 0

    @property
    def finished(self) -> bool:
        """Whether the run has trained all its steps and evaluated the result."""
        return self.exit_code == 0

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapters and tensors of the best run checkpoint."""
        return self.folder / "adapter"

    @property
    def summary(self) -> dict[str, Any]:
        """Content of `summary.json`.

        Raises:
            FileNotFoundError: The run is not finished.
        """
        text = (self.folder / SUMMARY).read_text(encoding="utf-8")
        summary: dict[str, Any] = json.loads(text)
        return summary

    @property
    def before(self) -> dict[str, float]:
        """Metrics on the held-out test rows before training, by name."""
        metrics: dict[str, float] = self.summary["before"]
        return metrics

    @property
    def after(self) -> dict[str, float]:
        """Metrics on the held-out test rows after training, by name."""
        metrics: dict[str, float] = self.summary["after"]
        return metrics


def fit(
    model: FinetuneModule,
    data: ConversationDataModule,
    *,
    run_dir: str | Path = "runs",
    run_name: str = "fit",
    monitor: str | None = None,
    keep_best: int = 1,
    floor: Mapping[str, float] | None = None,
    resume: Literal["auto", "never"] = "auto",
    checkpoint_every_steps: int | None = None,
    time_limit_s: float | None = None,
    ckpt_path: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **trainer: Any,
) -> Run:
    """Fine-tune a model and write a run folder; the command `dsvl-tune fit` calls this function.

    The run prints its plan (what is trained), checks after the first step that exactly those
    tensors changed, answers held-out questions before and after training, keeps the best and the
    last run checkpoint, and can be resumed: the same call resumes an unfinished run with the same
    name and settings. `data.seed` is the seed of the run.

    Args:
        model: A new model; it is built inside.
        data: Training, validation and test rows, for the same base checkpoint.
        run_dir: Folder of all run folders.
        run_name: Name of the run; its folder is `run_dir/run_name`, or `run_dir/run_name-2`, ...
        monitor: Logged name that selects the best run checkpoint, e.g. "val/loss"; "last" keeps the
            final step; None takes the first metric of `data`.
        keep_best: Number of best run checkpoints to keep.
        floor: Figures of held-out sets that a best run checkpoint must keep, by logged name, e.g.
            `{"val/scenes/relaxed_accuracy": 2}`: at most so much worse than the base model, in
            points of a figure in percent, else in its own unit.
        resume: "auto" resumes an unfinished run; "never" always starts a new one.
        checkpoint_every_steps: Optimizer steps between saves of the last run checkpoint, besides
            those after validations.
        time_limit_s: Seconds after which the run saves and stops.
        ckpt_path: Run checkpoint to start from; "last" resumes the newest run of this name even if
            its settings differ.
        settings: Full settings to write as `config.yaml`; None derives them from the arguments.
        **trainer: Arguments of Lightning's Trainer, e.g. `max_steps=100`.

    Returns:
        The run, finished or stopped.

    Raises:
        UserError: Invalid data, settings or environment; the message says what to do.
    """
    options = {
        "run_dir": str(run_dir),
        "run_name": run_name,
        "monitor": monitor,
        "keep_best": keep_best,
        "floor": None if floor is None else dict(floor),
        "resume": resume,
        "checkpoint_every_steps": checkpoint_every_steps,
        "time_limit_s": time_limit_s,
    }
    _check_pair(model, data)
    trainer = {**TRAINER_DEFAULTS, **trainer}
    check_trainer(trainer, data.num_workers)
    if settings is None:
        settings = describe_run(model, data, trainer, options)
    model.check_arguments()
    monitor = chosen_monitor(monitor, data.metrics)
    L.seed_everything(data.seed, workers=True, verbose=False)
    die_with_first()
    stop = StopRequest(time_limit_s)
    folder, checkpoint = _place(Path(run_dir) / run_name, ckpt_path, resume, settings)
    if checkpoint is None and (folder / SUMMARY).is_file():
        _print_finished(folder, data)
        return Run(folder)
    with quiet_lightning(), keyboard_interrupts():
        lightning_trainer = training_trainer(
            trainer,
            folder,
            stop,
            monitor=monitor,
            metrics=data.all_metrics,
            keep_best=keep_best,
            floor=floor or {},
            checkpoint_every_steps=checkpoint_every_steps,
            recipe=settings,
        )
        try:
            use_free_cores(lightning_trainer.num_devices)
            with (
                stop,
                one_at_a_time(folder),
                configuration_errors(),
                explained_errors(lightning_trainer, folder),
            ):
                _set_up(model, data)
                if not trainer.get("callbacks"):  # which may log names that are not known here
                    check_monitor(monitor, data)
                check_floor(floor or {}, monitor, data)
                inputs = _inputs(model, data, trainer)
                if ckpt_path is None:  # a run checkpoint that was named may come from other inputs
                    _check_unchanged(folder, checkpoint, inputs)
                _write_description(folder, settings, model, inputs)
                lightning_trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
                _finish(folder, data)
        except RunStopped as stopped:
            _print_stopped(lightning_trainer.global_step, folder)
            return Run(folder, stopped.exit_code)
    return Run(folder, exit_code=0)


def _check_pair(model: FinetuneModule, data: ConversationDataModule) -> None:
    """Raise unless the model is new and the data module is for the same base checkpoint."""
    if model.model is not None:
        raise UserError("fit: this model was built before. Give a new FinetuneModule.")
    if data.checkpoint != model.checkpoint:
        raise UserError(
            f"fit: the data module is for checkpoint {data.checkpoint!r}, the model for "
            f"{model.checkpoint!r}. Give both the same checkpoint."
        )


def _place(
    wanted: Path,
    ckpt_path: str | Path | None,
    resume: Literal["auto", "never"],
    settings: Mapping[str, Any],
) -> tuple[Path, Path | None]:
    """Decide which folder the run is in and which run checkpoint it resumes, alike on all ranks.

    Args:
        wanted: Folder of a new run of this name.
        ckpt_path: As in `fit`.
        resume: As in `fit`.
        settings: Full settings of the run.

    Raises:
        UserError: The run checkpoint does not exist.
    """
    folder, checkpoint = decided_by_first(
        lambda: place_run(
            wanted,
            ckpt_path=None if ckpt_path is None else str(ckpt_path),
            resume=resume,
            settings=settings,
            read_settings=read_settings,
        )
    )
    if checkpoint is not None and not checkpoint.exists():
        raise UserError(f"--ckpt_path {checkpoint}: no such file. Give a run checkpoint, or last.")
    return folder, checkpoint


def _set_up(model: FinetuneModule, data: ConversationDataModule) -> None:
    """Read the rows, and check that what the model trains gets a gradient from them."""
    set_up_fit(data)
    plan = model.adaptation.requested_plan(model.base.family)
    check_rows_reach(plan, data.rows("train"))


def _inputs(
    model: FinetuneModule, data: ConversationDataModule, trainer: Mapping[str, Any]
) -> dict[str, str]:
    """Hash what the run depends on; {} on other ranks, which write no manifest."""
    if not is_first():
        return {}
    callbacks = trainer.get("callbacks") or []
    others = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    factories = [factory for factory in (model.optimizer, model.lr_scheduler) if factory]
    made = [getattr(factory, "func", factory) for factory in factories]
    named = [model, model.objective, *data.all_metrics, *others, *made]
    return run_inputs(model.base, data, named)


def _write_description(
    folder: Path,
    settings: Mapping[str, Any],
    model: FinetuneModule,
    inputs: Mapping[str, str],
) -> None:
    """Write `config.yaml`, which repeats the run, and `manifest.json`: versions and hashes."""
    if not is_first():
        return
    (folder / SUMMARY).unlink(missing_ok=True)  # only a finished run has one
    run_id = read_manifest(folder).get("run") or uuid.uuid4().hex
    write_settings(folder, settings)
    content = manifest(model.base, model.quantization, inputs, run_id)
    write_json(folder / MANIFEST, content)


def _check_unchanged(folder: Path, checkpoint: Path | None, inputs: dict[str, str]) -> None:
    """Raise unless a run that is resumed depends on what it depended on before."""
    if checkpoint is not None and is_first():
        check_inputs(folder, inputs)


def _finish(folder: Path, data: ConversationDataModule) -> None:
    """Write the report of a finished run, and print what to do next."""
    if is_first():
        write_run_report(folder, data)
        print(next_step_text(folder), flush=True)


def _print_finished(folder: Path, data: ConversationDataModule) -> None:
    """Print the result of a run whose process was killed just after it had written it."""
    if is_first():
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        text = summary_text(summary, folder, data.all_metrics)
        print(f"{folder} is finished\n{text}\n{next_step_text(folder)}", flush=True)


def _print_stopped(step: int, folder: Path) -> None:
    """Say where the run stopped and how to resume it."""
    if is_first():
        print(f"stopped at step {step}; start it again to resume\nrun folder: {folder}", flush=True)
