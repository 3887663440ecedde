"""A tracker's own run, which a resumed run continues without logging a step twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dsvl_tune.training.trackers.trackio_logger import TrackioLogger

FOLDER = "trackers"
"""In a run folder: a file for each tracker, with the id of its run and all that was logged."""
CONTINUED = (WandbLogger, MLFlowLogger, TrackioLogger)
"""Loggers whose tracker can continue a run by its id."""


def continue_tracker_run(logger: Logger, journal: Path) -> None:
    """Let a logger continue the tracker run that earlier starts of this run logged to.

    A run that is resumed computes its steps since the run checkpoint again. What has been logged
    under a name at a step is not logged again: names and steps are in the journal, because a
    tracker that is offline cannot be asked, and none takes a value back.

    Args:
        logger: Of a recipe, before it is used. Loggers other than `CONTINUED` are left as they are.
        journal: File in the run folder; written from the first logged value on.
    """
    if not isinstance(logger, CONTINUED):
        return
    known_id, logged = _read(journal)
    if known_id is not None and _given_id(logger) in (None, known_id):
        _set_id(logger, known_id)
    else:  # the first start, or the recipe names another tracker run now
        known_id, logged = None, set()
    log_metrics = logger.log_metrics

    @rank_zero_only
    def log_new(metrics: Mapping[str, Any], step: int | None = None) -> None:
        nonlocal known_id
        new = {name: value for name, value in metrics.items() if (step, name) not in logged}
        if not new:
            return
        log_metrics(new, step)
        logged.update((step, name) for name in new)
        if known_id is None:
            known_id = str(logger.version)
            _append(journal, {"id": known_id})
        _append(journal, {"step": step, "names": list(new)})

    logger.log_metrics = log_new  # type: ignore[method-assign]


def _given_id(logger: Logger) -> str | None:
    """The id of the tracker run that the recipe names; None lets the tracker begin one."""
    # MLFlowLogger.version would begin a run.
    given: Any = logger._run_id if isinstance(logger, MLFlowLogger) else logger.version
    return None if given is None else str(given)


def _set_id(logger: Logger, run_id: str) -> None:
    """Name the tracker run to continue, as the logger's constructor would."""
    if isinstance(logger, WandbLogger):
        logger._id = logger._wandb_init["id"] = run_id
    elif isinstance(logger, MLFlowLogger):
        logger._run_id = run_id
    elif isinstance(logger, TrackioLogger):
        logger.run_name = run_id


def _append(journal: Path, line: Mapping[str, Any]) -> None:
    """Add a line, on a line of its own even if a kill has cut the one before it."""
    journal.parent.mkdir(exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(line))


def _read(journal: Path) -> tuple[str | None, set[tuple[int | None, str]]]:
    """The id of the newest tracker run in a journal, and step and name of all that it got."""
    run_id = None
    logged: set[tuple[int | None, str]] = set()
    for text in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # empty, or cut by a kill
            continue
        if "id" in line:
            run_id, logged = line["id"], set()
        else:
            logged |= {(line["step"], name) for name in line["names"]}
    return run_id, logged
