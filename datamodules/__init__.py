"""Data modules: what a recipe's `data.class_path` names. Each class is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if __name__ != "dsvl_tune.datamodules":
    raise ImportError(
        f"import dsvl_tune.datamodules, not {__name__}: the folder is part of the package dsvl_tune."
    )

if TYPE_CHECKING:
    from dsvl_tune.datamodules.base import ConversationDataModule as ConversationDataModule
    from dsvl_tune.datamodules.charts import ChartsDataModule as ChartsDataModule
    from dsvl_tune.datamodules.instruct import InstructDataModule as InstructDataModule
    from dsvl_tune.datamodules.mixture import MixtureDataModule as MixtureDataModule
    from dsvl_tune.datamodules.published import CaptionsDataModule as CaptionsDataModule
    from dsvl_tune.datamodules.published import ChartQADataModule as ChartQADataModule
    from dsvl_tune.datamodules.published import DocVQADataModule as DocVQADataModule
    from dsvl_tune.datamodules.published import ScienceQADataModule as ScienceQADataModule
    from dsvl_tune.datamodules.published import TextVQADataModule as TextVQADataModule
    from dsvl_tune.datamodules.scenes import ScenesDataModule as ScenesDataModule

_HOMES = {
    "ChartsDataModule": "charts",
    "ConversationDataModule": "base",
    "InstructDataModule": "instruct",
    "MixtureDataModule": "mixture",
    "CaptionsDataModule": "published",
    "ChartQADataModule": "published",
    "DocVQADataModule": "published",
    "ScienceQADataModule": "published",
    "TextVQADataModule": "published",
    "ScenesDataModule": "scenes",
}

__all__ = [
    "CaptionsDataModule",
    "ChartQADataModule",
    "ChartsDataModule",
    "ConversationDataModule",
    "DocVQADataModule",
    "InstructDataModule",
    "MixtureDataModule",
    "ScenesDataModule",
    "ScienceQADataModule",
    "TextVQADataModule",
]


def __getattr__(name: str) -> type:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: type = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return found
