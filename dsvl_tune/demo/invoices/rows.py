"""Invoices as rows: a picture, one question, and the fields as JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.demo.invoices.content import draw_invoice
from dsvl_tune.demo.invoices.drawing import draw_page
from dsvl_tune.demo.invoices.photo import photograph

QUESTION = "Read the invoice: {fields} as JSON."


def invoice_row(seed: int, split: str, fields: Sequence[str]) -> list[Conversation]:
    """A conversation about one invoice.

    Args:
        seed: Which invoice; a split and a seed always give the same one.
        split: train, validation or test; no two splits have an invoice in common.
        fields: Of the answer, of those of `Invoice.fields`.
    """
    name = f"invoices/{split}/{seed}"
    picture, values = photographed_invoice(name)
    answer = json.dumps({field: values[field] for field in fields}, ensure_ascii=False)
    question = QUESTION.format(fields=", ".join(fields))
    return [
        Conversation(
            turns=(
                Turn("user", (ImageRef(picture, name), question)),
                Turn("assistant", (answer,)),
            ),
            source=name,
        )
    ]


def photographed_invoice(name: str) -> tuple[Image.Image, dict[str, Any]]:
    """The picture of an invoice, and its fields.

    Args:
        name: Decides everything.
    """
    rng = random.Random(name)
    invoice = draw_invoice(rng)
    return photograph(rng, draw_page(rng, invoice)), invoice.fields()
