"""Tasks of text alone by lm-eval (EleutherAI's harness), on the model as it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.text_table import format_table
from dsvl_tune.evaluation.chat_model import ChatModel
from dsvl_tune.evaluation.figures_table import NO_FIGURE
from dsvl_tune.evaluation.text_task_report import TaskFigure, task_figures

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def find_tasks(names: Sequence[str], folder: Path | None) -> TaskManager:
    """lm-eval's tasks, after checking that the named ones are among them.

    Args:
        names: of tasks.
        folder: of own tasks (YAML); then lm-eval's are left out. None takes lm-eval's, whose data
            are on the hub.

    Raises:
        UserError: lm-eval is not installed, there is no such folder or task, or a task's data
            cannot be loaded.
    """
    if find_spec("lm_eval") is None:
        raise UserError(
            "--text_tasks: needs lm-eval. Install it: pip install 'dsvl-tune[lm-eval]'."
        )
    if folder is not None and not folder.is_dir():
        raise UserError(f"--task_folder {folder}: no such folder. Expected one of YAML tasks.")
    from lm_eval.tasks import TaskManager

    path = None if folder is None else str(folder)
    manager = TaskManager(include_path=path, include_defaults=folder is None)
    for name in names:
        if name not in manager.all_tasks:
            raise unknown_name("text task", name, manager.all_tasks)
    try:
        manager.load(list(names))
    except Exception as error:  # any: of YAML, of its functions, of datasets, of the network
        reason = " ".join(str(error).split())
        raise UserError(
            f"--text_tasks {' '.join(names)}: lm-eval could not load them "
            f"({type(error).__name__}: {reason}). Check the tasks and their data."
        ) from error
    return manager


def run_text_tasks(
    model: ChatModel, names: Sequence[str], manager: TaskManager, *, batch_size: int
) -> dict[str, Any]:
    """Evaluate tasks; prompts are lm-eval's, without the chat template.

    Args:
        model: the whole model; text goes through its forward, without images.
        names: of tasks.
        manager: that knows them.
        batch_size: of requests.

    Returns:
        `version` of lm-eval, and `tasks`: the figures of each by name, with standard errors.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    language_model = HFLM(
        pretrained=model.network,
        tokenizer=model.processor.tokenizer,
        backend="causal",
        batch_size=batch_size,
    )
    results = lm_eval.simple_evaluate(
        model=language_model, tasks=list(names), task_manager=manager, log_samples=False
    )
    tasks = {
        task: {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        for task, figures in results["results"].items()
    }
    return {"version": lm_eval.__version__, "tasks": tasks}


def text_tasks_table(report: Mapping[str, Any]) -> str:
    """A line for each figure of each task, with its standard error.

    Args:
        report: from `run_text_tasks`.
    """
    rule = f"lm-eval {report['version']}"
    lines = [
        [one.task, rule, one.name, f"{one.value:.4f}", error_text(one)]
        for one in task_figures(report)
    ]
    return format_table(["text task", "rule", "figure", "value", "standard error"], lines)


def error_text(figure: TaskFigure) -> str:
    """A standard error as it is printed."""
    return NO_FIGURE if figure.error is None else f"{figure.error:.4f}"
