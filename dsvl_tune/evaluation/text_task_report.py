"""`text_tasks.json`: the figures of text tasks, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import sha256, write_json
from dsvl_tune.core.storage.outputs import check_output_file

TEXT_REPORT = "text_tasks.json"
STANDARD_ERROR = "_stderr"


class TaskFigure(NamedTuple):
    """A figure of a text task.

    Attributes:
        task: name of the task.
        name: of the figure, e.g. "acc".
        value: the figure.
        error: its standard error; None where lm-eval gives none.
    """

    task: str
    name: str
    value: float
    error: float | None


def check_report(path: Path) -> None:
    """Check that a file may hold the figures: it is new, or an earlier one of them.

    Raises:
        UserError: somebody else wrote it.
    """
    if path.parent.is_dir():
        check_output_file(path, "--out", _is_report)


def write_report(
    folder: Path,
    identity: Mapping[str, str | None],
    command: Sequence[str],
    found: Mapping[str, Any],
) -> None:
    """Write the figures into a folder.

    Args:
        folder: it exists.
        identity: `model`, the base checkpoint as the user gave it, and `adapter`, the folder of the
            adapter on it.
        command: that gives the figures again.
        found: from `run_text_tasks`.
    """
    adapter = identity["adapter"]
    content = {
        **identity,
        "adapter_sha256": weight_sums(None if adapter is None else Path(adapter)),
        "command": list(command),
        "lm_eval": found,
    }
    write_json(folder / TEXT_REPORT, content)


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """The reports in a folder and in the folders in it.

    Raises:
        UserError: a file of that name is something else.
    """
    paths = sorted([*folder.glob(TEXT_REPORT), *folder.glob(f"*/{TEXT_REPORT}")])
    for path in paths:
        if not _is_report(path):
            raise UserError(
                f"{path}: is no report of text tasks. Expected what dsvl-tune benchmark "
                "--text_tasks wrote; remove it, or evaluate them again."
            )
    return [json.loads(path.read_bytes()) for path in paths]


def weight_sums(adapter: Path | None) -> dict[str, str]:
    """SHA-256 of the files of weights in an adapter's folder, by name; {} without an adapter."""
    files = [] if adapter is None else sorted(adapter.glob("*.safetensors"))
    return {file.name: sha256(file) for file in files}


def task_figures(found: Mapping[str, Any]) -> list[TaskFigure]:
    """Every figure of each task, in the order of lm-eval's report.

    Args:
        found: from `run_text_tasks`.
    """
    figures = []
    for task, values in found["tasks"].items():
        for key, value in values.items():
            name, _, filtered = key.partition(",")
            if filtered and not name.endswith(STANDARD_ERROR):
                error = values.get(f"{name}{STANDARD_ERROR},{filtered}")
                figures.append(TaskFigure(task, name, value, error))
    return figures


def _is_report(path: Path) -> bool:
    """Whether a file has figures of text tasks."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and {"model", "adapter", "lm_eval"} <= set(content)
