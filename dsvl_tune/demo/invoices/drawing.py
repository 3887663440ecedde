"""The page of an invoice, as it left the vendor's printer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dsvl_tune.demo.invoices.content import Invoice, printed
from dsvl_tune.demo.looks import load_font
from dsvl_tune.demo.palette import Color, shade

SIZE = (620, 877)
"""Width and height in px: A4 at 75 dots an inch."""
MARGIN = 48
"""In px, on the left and on the right."""
COLUMNS = (300, 380, 470, SIZE[0] - MARGIN)
"""Right ends in px of quantity, unit price, tax rate and amount; names begin at the margin."""
INK: Color = (40, 40, 44)
SOFT: Color = (110, 110, 116)
WHITE: Color = (255, 255, 255)


@dataclass(frozen=True)
class Page:
    """A page that is being drawn.

    Attributes:
        draw: Of the picture.
        invoice: What is on it.
        color: The vendor's, in the shade of this printing.
    """

    draw: ImageDraw.ImageDraw
    invoice: Invoice
    color: Color

    def text(
        self, place: tuple[int, int], text: str, *, size: int, fill: Color = INK, anchor: str = "la"
    ) -> None:
        """Write a line.

        Args:
            place: Of the anchor in px.
            text: One line.
            size: Of the font in px.
            fill: Color of the ink.
            anchor: Which point of the text is at `place`, as Pillow names it.
        """
        font = load_font(self.invoice.vendor.font, size)
        self.draw.text(place, text, font=font, fill=fill, anchor=anchor)


def draw_page(rng: random.Random, invoice: Invoice) -> Image.Image:
    """Print an invoice.

    Args:
        rng: Varies the shade of the vendor's color.
        invoice: What is on it.
    """
    picture = Image.new("RGB", SIZE, WHITE)
    page = Page(ImageDraw.Draw(picture), invoice, shade(rng, invoice.vendor.color))
    below = LETTERHEADS[invoice.vendor.layout](page)
    below = draw_facts(page, below + 34)
    below = draw_items(page, below + 30)
    draw_totals(page, below + 20)
    draw_footer(page)
    return picture


def band(page: Page) -> int:
    """A colored band with the name; returns where it ends in px."""
    vendor = page.invoice.vendor
    page.draw.rectangle((0, 0, SIZE[0], 118), fill=page.color)
    page.text((MARGIN, 34), vendor.name, size=32, fill=WHITE)
    page.text((MARGIN, 82), vendor.address, size=13, fill=WHITE)
    page.text((SIZE[0] - MARGIN, 52), "INVOICE", size=18, fill=WHITE, anchor="ra")
    return 118


def left(page: Page) -> int:
    """A square logo on the left, the name next to it; returns where it ends in px."""
    vendor = page.invoice.vendor
    page.draw.rectangle((MARGIN, 40, MARGIN + 84, 124), fill=page.color)
    page.text((MARGIN + 42, 82), vendor.name[0], size=54, fill=WHITE, anchor="mm")
    page.text((MARGIN + 104, 48), vendor.name, size=26)
    page.text((MARGIN + 104, 84), vendor.address, size=12, fill=SOFT)
    page.text((MARGIN + 104, 104), "Invoice", size=14, fill=page.color)
    return 128


def right(page: Page) -> int:
    """A round logo on the right, the title on the left; returns where it ends in px."""
    vendor = page.invoice.vendor
    end = SIZE[0] - MARGIN
    page.draw.ellipse((end - 92, 34, end, 126), fill=page.color)
    page.text((end - 46, 80), vendor.name[0], size=48, fill=WHITE, anchor="mm")
    page.text((MARGIN, 44), "Invoice", size=34, fill=page.color)
    page.text((MARGIN, 92), vendor.name, size=17)
    page.text((MARGIN, 116), vendor.address, size=12, fill=SOFT)
    return 136


def center(page: Page) -> int:
    """The name between two colored rules; returns where it ends in px."""
    vendor, middle = page.invoice.vendor, SIZE[0] // 2
    page.draw.rectangle((MARGIN, 36, SIZE[0] - MARGIN, 48), fill=page.color)
    page.text((middle, 82), vendor.name, size=30, anchor="mm")
    page.text((middle, 112), vendor.address, size=12, fill=SOFT, anchor="mm")
    page.draw.rectangle((MARGIN, 132, SIZE[0] - MARGIN, 144), fill=page.color)
    return 144


LETTERHEADS: dict[str, Callable[[Page], int]] = {
    "band": band,
    "left": left,
    "right": right,
    "center": center,
}


def draw_facts(page: Page, top: int) -> int:
    """Customer, number and date; returns where they end in px."""
    invoice = page.invoice
    page.text((MARGIN, top), "Bill to", size=12, fill=SOFT)
    page.text((MARGIN, top + 20), invoice.customer, size=17)
    facts = {
        "Invoice no.": invoice.number,
        "Date": invoice.day.strftime(invoice.vendor.date_format),
    }
    for line, (name, value) in enumerate(facts.items()):
        page.text((360, top + 26 * line), name, size=13, fill=SOFT)
        page.text((SIZE[0] - MARGIN, top + 26 * line), value, size=15, anchor="ra")
    return top + 54


def draw_items(page: Page, top: int) -> int:
    """The table of items; returns where it ends in px."""
    invoice, end = page.invoice, SIZE[0] - MARGIN
    page.draw.rectangle((MARGIN, top, end, top + 28), fill=page.color)
    heads = zip(("Qty", "Price", "VAT", "Amount"), COLUMNS, strict=True)
    page.text((MARGIN + 8, top + 14), "Description", size=13, fill=WHITE, anchor="lm")
    for head, column in heads:
        page.text((column - 8, top + 14), head, size=13, fill=WHITE, anchor="rm")
    for line, item in enumerate(invoice.items, start=1):
        middle = top + 16 + 32 * line
        page.text((MARGIN + 8, middle), item.name, size=14, anchor="lm")
        cells = (
            str(item.quantity),
            printed(item.price),
            f"{invoice.vendor.vat_percent} %",
            printed(item.amount),
        )
        for cell, column in zip(cells, COLUMNS, strict=True):
            page.text((column - 8, middle), cell, size=14, anchor="rm")
        page.draw.line((MARGIN, middle + 16, end, middle + 16), fill=(205, 205, 210))
    return top + 32 * (len(invoice.items) + 1)


def draw_totals(page: Page, top: int) -> None:
    """Subtotal, tax, and what is to be paid."""
    invoice, end = page.invoice, SIZE[0] - MARGIN
    sums = {
        "Subtotal": invoice.subtotal,
        f"VAT {invoice.vendor.vat_percent} %": invoice.tax,
    }
    for line, (name, amount) in enumerate(sums.items()):
        page.text((360, top + 26 * line), name, size=14, fill=SOFT)
        page.text((end - 8, top + 26 * line), printed(amount), size=14, anchor="ra")
    box = (340, top + 58, end, top + 100)
    page.draw.rectangle(box, outline=page.color, width=3)
    middle = top + 79
    page.text((354, middle), f"Total {invoice.vendor.currency}", size=16, anchor="lm")
    page.text((end - 10, middle), printed(invoice.total), size=20, anchor="rm")


def draw_footer(page: Page) -> None:
    """Terms of payment."""
    vendor, bottom = page.invoice.vendor, SIZE[1] - 40
    page.draw.line((MARGIN, bottom - 14, SIZE[0] - MARGIN, bottom - 14), fill=page.color, width=2)
    terms = f"{vendor.name} · {vendor.address} · payable within 30 days"
    page.text((SIZE[0] // 2, bottom), terms, size=10, fill=SOFT, anchor="ma")
