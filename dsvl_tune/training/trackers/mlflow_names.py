"""Names that MLflow takes: its file store makes a file or a folder of each part of a name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lightning.pytorch.loggers import MLFlowLogger


def mlflow_name(name: str) -> str:
    """Write a logged name so that no other one is a folder of it, and every character is allowed.

    `val/anls` and `val/anls/table` would be a file and a folder of the same name.

    Args:
        name: As everywhere else.

    Example:
        >>> mlflow_name("val/anls/table (wide)")
        'val/anls.table _u28wide_u29'
    """
    split, slash, rest = name.partition("/")
    return split + slash + re.sub(r"[^a-zA-Z0-9_ -]", _allowed, rest)


def rename_for_mlflow(logger: MLFlowLogger) -> None:
    """Let a logger write its metrics by these names.

    Args:
        logger: Of a recipe, whose class is Lightning's or a subclass.
    """
    log_metrics = logger.log_metrics

    def log_renamed(metrics: Mapping[str, float], step: int | None = None) -> None:
        log_metrics({mlflow_name(name): value for name, value in metrics.items()}, step)

    logger.log_metrics = log_renamed  # type: ignore[method-assign]


def _allowed(character: re.Match[str]) -> str:
    """Replace a character: a slash by a point, others by their code."""
    return "." if character[0] == "/" else f"_u{ord(character[0]):x}"
