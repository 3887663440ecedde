"""A sweep: each trial is an ordinary run, a stopped sweep ends as one that was not stopped."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import optuna
import pytest
from runs import Commands, assert_equal_runs, fit, last, wait_for, write_recipe

from dsvl_tune.cli.commands.sweep import DESCRIPTION, add_options
from dsvl_tune.cli.main import main
from dsvl_tune.core.errors import UserError
from dsvl_tune.recipe.command import parse_recipe
from dsvl_tune.report.run_record import read_curves
from dsvl_tune.report.sweep_record import SweepRecord
from dsvl_tune.report.write_page import is_report
from dsvl_tune.sweep.definition import Sweep, write_definition
from dsvl_tune.sweep.plan import define_sweep, plan_text
from dsvl_tune.sweep.recipes import TrialRecipes, check_recipes
from dsvl_tune.sweep.record import read_sweep, report_sweep
from dsvl_tune.sweep.run_sweep import run_sweep
from dsvl_tune.sweep.study import JOURNAL, next_trial, open_study, repair_journal
from dsvl_tune.sweep.trial import run_trial

SHORT: dict[str, Any] = {
    "trainer__max_steps": 4,
    "trainer__val_check_interval": 4,  # micro-batches: after two steps and after four
    "model__warmup_steps": 0,
    "monitor": "val/loss",
}
"""Of a trial."""


def prepare(arguments: list[str]) -> tuple[Sweep, TrialRecipes]:
    """What `dsvl-tune sweep` does before the first trial."""
    recipe = parse_recipe("sweep", DESCRIPTION, arguments, add_options)
    options = recipe.config
    sweep = define_sweep(recipe, options.over, trials=options.trials, prune=options.prune)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_definition(sweep)
    return sweep, TrialRecipes(recipe, arguments)


def run(*arguments: str) -> tuple[int, SweepRecord]:
    """Run a sweep whose trials are in this process; its exit code, and what it has come to."""
    sweep, recipes = prepare(list(arguments))
    code = run_sweep(sweep, recipes, run_trial)
    return code, read_sweep(sweep.folder)


@pytest.fixture(scope="module")
def grid(
    hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SweepRecord]:
    """A recipe and its sweep over three learning rates, the last of which ruins the model."""
    recipe = write_recipe(tmp_path_factory.mktemp("grid"), hybrid_checkpoint, **SHORT)
    code, sweep = run("--config", str(recipe), "--over", "model.lr=0.002,0.003,1.0")
    assert code == 0
    return recipe, sweep


def test_a_trial_is_the_run_of_fit(grid: tuple[Path, SweepRecord], tmp_path: Path) -> None:
    recipe, sweep = grid
    assert [trial.values for trial in sweep.trials] == [
        {"model.lr": 0.002},
        {"model.lr": 0.003},
        {"model.lr": 1.0},
    ]
    assert fit(recipe, "--model.lr=0.003", f"--run_dir={tmp_path}") == 0
    assert_equal_runs(tmp_path / "run", sweep.folder / "trial_01")


def test_figures_are_the_best_of_the_log(grid: tuple[Path, SweepRecord]) -> None:
    _, sweep = grid
    for trial in sweep.trials[:2]:
        logged = read_curves(sweep.folder / trial.name / "metrics")["val/loss"]
        assert trial.figure == pytest.approx(min(value for _, value in logged), rel=1e-6)
    assert sweep.best == min(sweep.trials[:2], key=lambda trial: trial.figure or 0)


def test_a_bad_trial_is_pruned_and_can_be_resumed(grid: tuple[Path, SweepRecord]) -> None:
    _, sweep = grid
    ruined = sweep.trials[2]
    assert [trial.state for trial in sweep.trials] == ["finished", "finished", "pruned"]
    assert ruined.steps == 2 and not (sweep.folder / ruined.name / "summary.json").exists()
    assert fit(sweep.folder / ruined.name / "config.yaml") == 0
    assert (sweep.folder / ruined.name / "summary.json").is_file()


def test_the_page_shows_every_trial(grid: tuple[Path, SweepRecord], tmp_path: Path) -> None:
    _, sweep = grid
    page = tmp_path / "report.html"
    report_sweep(sweep.folder, page)
    text = page.read_text(encoding="utf-8")
    assert is_report(page) and (tmp_path / "report_plots" / "parallel-coordinates.png").is_file()
    assert all(f">{trial.name}<" in text for trial in sweep.trials)
    assert text.count("stroke-dasharray") >= 1
    for number in ("0.002", "0.003"):
        assert f">{number}<" in text


class Interrupt(L.Callback):
    """Sends this process Ctrl-C in a micro-batch of each trial, the first time."""

    seen: ClassVar[list[float]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        lr = module.hparams["lr"]
        if trainer.fit_loop.total_batch_idx == 5 and lr not in self.seen:
            self.seen.append(lr)
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_sweep_ends_as_one_that_was_not(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interrupt, "seen", [])
    over = ["--over", "model.lr=1e-3..1e-2:log", "--over", "model.warmup_steps=0,2", "--trials=2"]
    whole = write_recipe(tmp_path / "whole", hybrid_checkpoint, **SHORT)
    code, expected = run("--config", str(whole), *over)
    assert code == 0 and len(expected.trials) == 2
    callbacks = {"trainer__callbacks": [{"class_path": f"{__name__}.Interrupt"}]}
    recipe = write_recipe(tmp_path / "stopped", hybrid_checkpoint, **SHORT, **callbacks)
    codes = [run("--config", str(recipe), *over)[0] for _ in range(3)]
    assert codes == [130, 130, 0]
    _, sweep = run("--config", str(recipe), *over)  # once more: nothing is left to do
    assert [(t.name, t.values, t.figure) for t in sweep.trials] == [
        (t.name, t.values, t.figure) for t in expected.trials
    ]
    for trial in expected.trials:
        assert_equal_runs(sweep.folder / trial.name, expected.folder / trial.name)
    assert sorted(path.name for path in sweep.folder.glob("trial_*")) == ["trial_00", "trial_01"]


def test_a_failing_trial_does_not_end_a_sweep_that_works(
    hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **SHORT)
    sweep, recipes = prepare(["--config", str(recipe), "--over", "model.lr=0.1,0.2,0.3,0.4"])
    study = open_study(sweep)

    def start(folder: Path, number: int) -> int:
        if number in (1, 3):
            return 2
        study.tell(number, 1.0)
        return 0

    assert run_sweep(sweep, recipes, start) == 0
    states = [trial.state for trial in read_sweep(sweep.folder).trials]
    assert states == ["finished", "failed", "finished", "failed"]
    assert "trial_01: failed (exit code 2" in capsys.readouterr().out


def test_a_sweep_where_nothing_works_ends(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **SHORT)
    sweep, recipes = prepare(["--config", str(recipe), "--over", "model.lr=0.1,0.2"])
    for _ in range(2):  # the same trial is tried again
        with pytest.raises(UserError, match="trial_00 failed .* no trial was finished before"):
            run_sweep(sweep, recipes, lambda folder, number: 2)


def test_what_a_kill_leaves_is_repaired(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **SHORT)
    sweep, _ = prepare(["--config", str(recipe), "--over", "model.lr=1e-3..1e-2", "--trials=2"])
    open_study(sweep).ask()  # killed before its values were chosen
    journal = sweep.folder / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code":5,"work')
    (sweep.folder / f"{JOURNAL}.lock").touch()
    repair_journal(sweep.folder)
    study = open_study(sweep)
    trial = next_trial(sweep, study)
    assert trial is not None and trial.number == 1
    states = [one.state for one in study.get_trials()]
    assert states == [optuna.trial.TrialState.FAIL, optuna.trial.TrialState.RUNNING]


def test_the_plan_says_what_it_costs(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **SHORT)
    arguments = ["--config", str(recipe), "--over", "model.lr=0.1,0.2", "--over"]
    sweep, recipes = prepare([*arguments, "trainer.max_steps=10,20"])
    text = plan_text(sweep, check_recipes(recipes, sweep))
    assert "trials: 4, every combination; compared by the best val/loss" in text
    assert "4 trials of 10 to 20 steps, at most 60 in all" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--over=model.lrr=1,2"], "Did you mean"),
        (["--over=model.lr=0.1,-1"], "model.lr -1: model.lr: -1"),
        (["--over=model.parts.nose.rank=1,2"], "nose"),
        (["--over=model.lr=0.1..0.2"], "--trials: a range has no end of values"),
        (["--over=model.lr=0.1,0.2", "--monitor=last"], "--monitor last: trials are compared"),
        (["--over=model.lr=0.1,0.2", "--monitor=val/none"], "nothing is logged under this name"),
        (["--over=model.lr=0.1,0.2", "--trials=0"], "a whole number from 1"),
    ],
)
def test_nothing_begins_that_cannot_end(
    options: list[str],
    message: str,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **SHORT)
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "sweep", "--config", str(recipe), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_a_signal_reaches_the_trial_which_saves(
    hybrid_checkpoint: Path, tmp_path: Path, commands: Commands
) -> None:
    """The sweep itself gets the signal, not its process group: a scheduler does that."""
    endless = {"trainer__max_steps": 100_000, "checkpoint_every_steps": 1}
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **SHORT | endless)
    arguments = ["--config", str(recipe), "--over", "model.lr=0.002,0.003"]
    process = commands.start(tmp_path, "sweep", *arguments)
    trial = tmp_path / "runs" / "run_sweep" / "trial_00"
    wait_for((trial / "checkpoints" / "last.ckpt").is_file, within_s=240)
    os.kill(process, signal.SIGTERM)
    assert commands.ends(process, within_s=120) == 75
    assert last(trial)["global_step"] >= 1 and not (trial / "summary.json").exists()
    (only,) = read_sweep(trial.parent).trials
    assert only.state == "running"
    assert "sweep stopped; run the same command again" in (tmp_path / "log").read_text()
