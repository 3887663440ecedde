"""Names of data modules before version 0.2, which differ from `InstructDataModule` in its format.

They work for one release. Use `InstructDataModule` with `format`, or the presets
`recipes/data_*.yaml`.
"""

from __future__ import annotations

import warnings
from typing import Any

from .instruct import InstructDataModule


def warn_renamed(name: str, format: str) -> None:
    """Say what replaces a data module."""
    warnings.warn(
        f"{name} will be removed in version 0.3. Use InstructDataModule with format: {format}.",
        DeprecationWarning,
        stacklevel=3,
    )


class ChartQADataModule(InstructDataModule):
    """Deprecated: `InstructDataModule` with format chartqa.

    Args:
        train: as in `InstructDataModule`.
        validation: as in `InstructDataModule`.
        test: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(
        self,
        train: str = "HuggingFaceM4/ChartQA",
        validation: str | None = "HuggingFaceM4/ChartQA#val",
        test: str | None = "HuggingFaceM4/ChartQA#test",
        **options: Any,
    ) -> None:
        warn_renamed("ChartQADataModule", "chartqa")
        super().__init__(train, validation, test, format="chartqa", **options)


class ScienceQADataModule(InstructDataModule):
    """Deprecated: `InstructDataModule` with format scienceqa.

    Args:
        train: as in `InstructDataModule`.
        validation: as in `InstructDataModule`.
        test: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(
        self,
        train: str = "derek-thomas/ScienceQA",
        validation: str | None = "derek-thomas/ScienceQA#validation",
        test: str | None = "derek-thomas/ScienceQA#test",
        **options: Any,
    ) -> None:
        warn_renamed("ScienceQADataModule", "scienceqa")
        super().__init__(train, validation, test, format="scienceqa", **options)


class DocVQADataModule(InstructDataModule):
    """Deprecated: `InstructDataModule` with format answers.

    Args:
        train: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(self, train: str, **options: Any) -> None:
        warn_renamed("DocVQADataModule", "answers")
        super().__init__(train, format="answers", **options)


class TextVQADataModule(InstructDataModule):
    """Deprecated: `InstructDataModule` with format answers.

    Args:
        train: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(self, train: str, **options: Any) -> None:
        warn_renamed("TextVQADataModule", "answers")
        super().__init__(train, format="answers", **options)


class CaptionsDataModule(InstructDataModule):
    """Deprecated: `InstructDataModule` with format caption.

    Args:
        train: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(self, train: str, **options: Any) -> None:
        warn_renamed("CaptionsDataModule", "caption")
        super().__init__(train, format="caption", **options)
