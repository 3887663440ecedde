"""Generated invoices: the same for a seed, every sum right, no split in another, files whole."""

from __future__ import annotations

import csv
import json
import random
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
from PIL import Image

from dsvl_tune.datamodules import InvoicesDataModule
from dsvl_tune.demo.invoices.content import VENDORS, draw_invoice, printed
from dsvl_tune.demo.invoices.drawing import LETTERHEADS, draw_page
from dsvl_tune.demo.invoices.files import write_invoices
from dsvl_tune.demo.invoices.rows import photographed_invoice
from dsvl_tune.evaluation.metrics import find_metrics


def test_a_name_always_gives_the_same_invoice() -> None:
    (one, fields), (two, again) = (photographed_invoice("invoices/train/7") for _ in range(2))
    other, _ = photographed_invoice("invoices/test/7")
    assert one.tobytes() == two.tobytes() and fields == again
    assert one.tobytes() != other.tobytes()


def test_every_vendor_and_layout_is_drawn() -> None:
    assert {vendor.layout for vendor in VENDORS} == set(LETTERHEADS)
    assert {draw_invoice(random.Random(seed)).vendor for seed in range(60)} == set(VENDORS)


def test_totals_are_those_of_decimal_arithmetic() -> None:
    for seed in range(200):
        invoice = draw_invoice(random.Random(seed))
        lines = [Decimal(item.quantity) * Decimal(item.price) / 100 for item in invoice.items]
        tax = sum(lines) * invoice.vendor.vat_percent / 100
        exact = sum(lines) + tax
        total = Decimal(invoice.fields()["total"])
        assert abs(total - exact) <= Decimal("0.005")
        assert total == exact.quantize(Decimal("0.01"), ROUND_HALF_UP) or exact * 1000 % 10 == 5


def test_amounts_are_printed_as_people_do() -> None:
    assert [printed(value) for value in (5, 124050, 123456789)] == [
        "0.05",
        "1,240.50",
        "1,234,567.89",
    ]


def test_pages_of_one_vendor_differ_by_their_content_only_where_it_is() -> None:
    """The letterhead of two invoices of one vendor in one shade is the same."""
    vendor = VENDORS[0]
    invoices = [draw_invoice(random.Random(seed)) for seed in range(60)]
    first, second = [one for one in invoices if one.vendor is vendor][:2]
    pages = [np.asarray(draw_page(random.Random(1), one)) for one in (first, second)]
    assert (pages[0][:118] == pages[1][:118]).all()
    assert (pages[0] != pages[1]).any()


def test_answers_are_the_fields_as_json() -> None:
    data = InvoicesDataModule(train_invoices=3, fields=("vendor", "items", "total"))
    (conversation,) = data.rows("train")[0]
    answer = str(conversation.turns[1].parts[0])
    _, fields = photographed_invoice("invoices/train/0")
    assert json.loads(answer) == {key: fields[key] for key in ("vendor", "items", "total")}
    (metric,) = find_metrics(["json_fields"])
    assert metric.score(answer, conversation.accepted_answers) == 1.0
    assert "vendor, items, total" in str(conversation.turns[0].parts[1])


def test_the_example_set_is_sixty_photos_and_their_table(tmp_path: Path) -> None:
    write_invoices(tmp_path)
    with (tmp_path / "invoices.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    photos = sorted((tmp_path / "photos").iterdir())
    assert [line["photo"] for line in table] == [photo.name for photo in photos]
    assert len(table) == 60 and len({line["vendor"] for line in table[:50]}) == len(VENDORS)
    assert {Image.open(photo).format for photo in photos} == {"JPEG"}
    _, fields = photographed_invoice("invoices/example/60")
    assert {key: table[59][key] for key in ("vendor", "total")} == {
        "vendor": fields["vendor"],
        "total": fields["total"],
    }
