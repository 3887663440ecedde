"""Data modules: what a recipe's `data.class_path` names."""

from __future__ import annotations

if __name__ != "dsvl_tune.datamodules":
    raise ImportError(
        f"import dsvl_tune.datamodules, not {__name__}: "
        "this folder is part of the package dsvl_tune."
    )

from .base import ConversationDataModule
from .charts import ChartsDataModule
from .instruct import InstructDataModule
from .invoices import InvoicesDataModule
from .mixture import MixtureDataModule
from .published import CaptionsDataModule as CaptionsDataModule
from .published import ChartQADataModule as ChartQADataModule
from .published import DocVQADataModule as DocVQADataModule
from .published import ScienceQADataModule as ScienceQADataModule
from .published import TextVQADataModule as TextVQADataModule
from .scenes import ScenesDataModule

__all__ = [
    "ChartsDataModule",
    "ConversationDataModule",
    "InstructDataModule",
    "InvoicesDataModule",
    "MixtureDataModule",
    "ScenesDataModule",
]
