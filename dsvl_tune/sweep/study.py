"""Optuna's study of a sweep: it chooses values, remembers figures, and says what to prune.

The study is a journal in the sweep's folder, written line by line. Values are a function of the
seed and of the trials before, so a sweep that was stopped tries what it would have tried anyway.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.sweep.definition import Sweep
from dsvl_tune.sweep.space import combinations

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

JOURNAL = "study.journal"
"""In the folder of a sweep."""
NAME = "sweep"
"""Of the study in its journal."""


def import_optuna() -> ModuleType:
    """Import Optuna, whose progress messages are replaced by ours.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "sweep: needs Optuna. Install it: pip install 'dsvl-tune[sweep]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(sweep: Sweep) -> Study:
    """Open the study of a sweep, or begin it.

    Args:
        sweep: Its folder exists.
    """
    optuna = import_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    journal = str(sweep.folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
    study: Study
    if NAME in optuna.get_all_study_names(storage):
        study = optuna.load_study(storage=storage, study_name=NAME, pruner=_pruner(sweep))
    else:
        direction = "maximize" if sweep.higher_is_better else "minimize"
        study = optuna.create_study(
            storage=storage, study_name=NAME, direction=direction, pruner=_pruner(sweep)
        )
    return study


def repair_journal(folder: Path) -> None:
    """Remove what a kill has left: a lock without an owner, and a last line that is cut off.

    Args:
        folder: Of a sweep that no other process works on.
    """
    journal = folder / JOURNAL
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


def next_trial(sweep: Sweep, study: Study) -> FrozenTrial | None:
    """The trial that was not finished, else a new one; None once all are finished.

    Args:
        sweep: The sweep.
        study: Of the sweep.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if len(trial.params) == len(sweep.space):
            return trial
        study.tell(trial.number, state=TrialState.FAIL)  # killed while its values were chosen
    chosen = [trial for trial in study.get_trials() if has_values(sweep, trial)]
    if len(chosen) >= sweep.num_trials:
        return None
    if sweep.is_grid:
        for values in combinations(sweep.space):
            study.enqueue_trial(values, skip_if_exists=True)
    else:
        study.sampler = _sampler(sweep, len(study.get_trials()))
    number = study.ask({dimension.key: dimension.distribution for dimension in sweep.space}).number
    return study.get_trials()[number]


def has_values(sweep: Sweep, trial: FrozenTrial) -> bool:
    """Whether the values of a trial were all chosen."""
    return len(trial.params) == len(sweep.space)


def live_trial(study: Study, number: int) -> Trial:
    """A trial that is running, to report figures of.

    Args:
        study: Of the sweep.
        number: Of the trial.
    """
    from optuna.trial import Trial

    # Optuna makes trials itself, in the process that asks for values; this is another one.
    return Trial(study, study.get_trials()[number]._trial_id)


def _sampler(sweep: Sweep, number: int) -> Any:
    """The sampler of one trial.

    Args:
        sweep: The sweep.
        number: Of the trial.
    """
    from optuna.samplers import TPESampler

    seed = int(sweep.settings["seed_everything"]) + number
    return TPESampler(seed=seed, n_startup_trials=random_trials(sweep))


def random_trials(sweep: Sweep) -> int:
    """Trials whose values are drawn at random, before TPE has something to go by."""
    return min(10, max(3, sweep.num_trials // 3))


def _pruner(sweep: Sweep) -> Any:
    """The rule by which trials are stopped early."""
    from optuna.pruners import MedianPruner, NopPruner

    if not sweep.prune:
        return NopPruner()
    max_steps = sweep.settings["trainer"].get("max_steps") or 0
    return MedianPruner(
        n_startup_trials=min(5, max(2, sweep.num_trials // 3)),
        n_warmup_steps=max(0, max_steps // 3),  # of the optimizer
    )
