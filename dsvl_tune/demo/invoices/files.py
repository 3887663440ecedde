"""The example set: sixty photographed invoices and a table of their fields, as files."""

from __future__ import annotations

import csv
from pathlib import Path

from dsvl_tune.demo.invoices.rows import photographed_invoice

COUNT = 60
COLUMNS = ("vendor", "number", "date", "total", "currency")
"""Of the table, after the name of the photo."""
QUALITY = 88
"""Of the JPEG files, of 100."""


def write_invoices(folder: Path) -> None:
    """Write `photos/NNN.jpg` and `invoices.csv`.

    Args:
        folder: Where; it exists and is empty.
    """
    photos = folder / "photos"
    photos.mkdir()
    with (folder / "invoices.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["photo", *COLUMNS])
        for number in range(1, COUNT + 1):
            picture, values = photographed_invoice(f"invoices/example/{number}")
            name = f"{number:03d}.jpg"
            picture.save(photos / name, quality=QUALITY)
            table.writerow([name, *(values[column] for column in COLUMNS)])
