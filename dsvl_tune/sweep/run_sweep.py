"""Run the trials of a sweep one after the other, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dsvl_tune.core.errors import PREEMPTED, UserError
from dsvl_tune.report.sweep_record import monitor_text
from dsvl_tune.sweep.definition import Sweep
from dsvl_tune.sweep.folder import trial_name
from dsvl_tune.sweep.recipes import TrialRecipes, values_text
from dsvl_tune.sweep.record import read_sweep, trials_text
from dsvl_tune.sweep.study import next_trial, open_study
from dsvl_tune.training.run.stop_request import INTERRUPTED, SIGNALS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

StartTrial = Callable[[Path, int], int]
"""Runs a trial, by the folder of the sweep and its number; returns its exit code."""


def run_sweep(
    sweep: Sweep, recipes: TrialRecipes, start: StartTrial, time_limit_s: float | None = None
) -> int:
    """Run what is left of the trials of a sweep, and print their figures.

    Args:
        sweep: Its definition is written, and no other process works on it.
        recipes: Make the recipe of each trial.
        start: Runs one trial.
        time_limit_s: Seconds after which this start of the sweep stops.

    Returns:
        Exit code: 0 if all trials are finished; that of a trial that was stopped.

    Raises:
        UserError: A trial failed, and so did the one before it, or there was none.
    """
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    study = open_study(sweep)
    while (trial := next_trial(sweep, study)) is not None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            print("time limit reached", flush=True)
            return PREEMPTED
        recipes.write(sweep, trial.number, trial.params, left)
        done = len([one for one in study.get_trials() if one.state.is_finished()])
        name = trial_name(trial.number)
        print(
            f"\n{name} ({done + 1} of {sweep.num_trials}): {values_text(trial.params)}", flush=True
        )
        code = start(sweep.folder, trial.number)
        if code in (INTERRUPTED, PREEMPTED):
            return code
        _note_end(sweep, study, trial, code)
    print(f"\n{trials_text(read_sweep(sweep.folder))}", flush=True)
    return 0


def start_process(folder: Path, number: int) -> int:
    """Run a trial in a process of its own, which gets the signals that this one gets.

    Args:
        folder: Of the sweep.
        number: Of the trial.

    Returns:
        Its exit code, negative for a signal that ended it; that of a stopped run once this process
        was asked to stop.
    """
    command = [sys.executable, "-m", "dsvl_tune", "sweep", "trial", str(folder), str(number)]
    # In a group of its own: a terminal's Ctrl-C goes to a whole group, and it would get two.
    process = subprocess.Popen(command, start_new_session=True)

    received: list[int] = []

    def forward(signal_number: int, frame: FrameType | None) -> None:
        received.append(signal_number)
        if sys.platform != "win32":  # whose consoles send Ctrl-C to the trial themselves
            process.send_signal(signal_number)

    previous = {one: signal.signal(one, forward) for one in SIGNALS}
    try:
        code = process.wait()
    finally:
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
    if not received:
        return code
    return INTERRUPTED if signal.SIGINT in received else PREEMPTED


def _note_end(sweep: Sweep, study: Study, trial: FrozenTrial, code: int) -> None:
    """Print how a trial ended; one that failed is recorded, unless nothing else works either.

    Raises:
        UserError: The trial failed, and so did the one before it, or there was none.
    """
    from optuna.trial import TrialState

    name = trial_name(trial.number)
    ended = study.get_trials()[trial.number]
    if ended.state == TrialState.COMPLETE:
        best = study.best_trial
        print(
            f"{name}: best {sweep.monitor} {monitor_text(sweep.monitor, ended.value)}; best so far "
            f"{monitor_text(sweep.monitor, best.value)} ({trial_name(best.number)})",
            flush=True,
        )
        return
    if ended.state == TrialState.PRUNED:
        print(f"{name}: pruned after step {ended.last_step}", flush=True)
        return
    before = study.get_trials()[: trial.number]
    if not before or before[-1].state == TrialState.FAIL:
        raise UserError(
            f"{name} failed (exit code {code}; its message is above), and "
            f"{'so did the trial before it' if before else 'no trial was finished before it'}. "
            "Put that right; the same command tries it again."
        )
    study.tell(trial.number, state=TrialState.FAIL)
    print(f"{name}: failed (exit code {code}; its message is above)", flush=True)
