"""Generated invoices, whose fields are read as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from dsvl_tune.data.rows import Rows
from dsvl_tune.demo.generated_rows import GeneratedRows
from dsvl_tune.demo.invoices.rows import invoice_row
from dsvl_tune.evaluation.metrics import Metric

from .base import ConversationDataModule

InvoiceField = Literal["vendor", "number", "date", "items", "lines", "total", "currency"]


class InvoicesDataModule(ConversationDataModule):
    """Photographed invoices of eight vendors, drawn by seed; answers are JSON.

    The splits have no invoice in common. `dsvl-tune examples invoices` writes 60 of them as files.

    Args:
        train_invoices: invoices in an epoch.
        validation_invoices: invoices scored during training; they choose the best checkpoint.
        test_invoices: invoices scored before and after training.
        fields: fields of the answer: vendor, number, date, items (a list), lines (their number),
            total, currency.
        metrics: as in `ConversationDataModule`.
        **options: as in `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        train_invoices: int = 1_000,
        validation_invoices: int = 20,
        test_invoices: int = 60,
        fields: tuple[InvoiceField, ...] = ("vendor", "currency", "lines", "total"),
        metrics: Sequence[Metric | str] = ("json_fields",),
        **options: Any,
    ) -> None:
        super().__init__(metrics=metrics, **options)
        self.train_invoices = train_invoices
        self.validation_invoices = validation_invoices
        self.test_invoices = test_invoices
        self.fields = fields

    def rows(self, split: str) -> Rows:
        """An invoice per row."""
        amounts = {
            "train": self.train_invoices,
            "validation": self.validation_invoices,
            "test": self.test_invoices,
        }
        make = partial(invoice_row, split=split, fields=self.fields)
        return GeneratedRows(make, amounts[split], ("invoices", make.keywords))
