"""Published data sets by their own columns: from the hub, a saved folder, or files of the same layout."""

from __future__ import annotations

from typing import Any

from .instruct import InstructDataModule


class ChartQADataModule(InstructDataModule):
    """ChartQA: questions about charts, columns image, query, label, human_or_machine.

    Args:
        train: as in `InstructDataModule`.
        validation: the rows that choose the best checkpoint.
        test: the rows scored before and after.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(
        self,
        train: str = "HuggingFaceM4/ChartQA",
        validation: str | None = "HuggingFaceM4/ChartQA#val",
        test: str | None = "HuggingFaceM4/ChartQA#test",
        **options: Any,
    ) -> None:
        super().__init__(train, validation, test, format="chartqa", **options)


class ScienceQADataModule(InstructDataModule):
    """ScienceQA: multiple choice with and without an image, columns image, question, choices, answer, hint, subject.

    Args:
        train: as in `InstructDataModule`.
        validation: the rows that choose the best checkpoint.
        test: the rows scored before and after.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(
        self,
        train: str = "derek-thomas/ScienceQA",
        validation: str | None = "derek-thomas/ScienceQA#validation",
        test: str | None = "derek-thomas/ScienceQA#test",
        **options: Any,
    ) -> None:
        super().__init__(train, validation, test, format="scienceqa", **options)


class DocVQADataModule(InstructDataModule):
    """Questions about document pages in DocVQA's layout: columns image, question, answers, question_types.

    Args:
        train: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(self, train: str, **options: Any) -> None:
        super().__init__(train, format="answers", **options)


class TextVQADataModule(InstructDataModule):
    """Questions about text in photographs in TextVQA's layout: columns image, question, answers (ten of them).

    Args:
        train: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(self, train: str, **options: Any) -> None:
        super().__init__(train, format="answers", **options)


class CaptionsDataModule(InstructDataModule):
    """Pictures with descriptions: columns image and caption, an image folder's metadata, or WebDataset's png and txt.

    Args:
        train: as in `InstructDataModule`.
        **options: as in `InstructDataModule`, without `format`.
    """

    def __init__(self, train: str, **options: Any) -> None:
        super().__init__(train, format="caption", **options)
