"""What is on an invoice: vendors, items, totals. All names are invented."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

FIRST_DAY = date(2025, 1, 2)
DAYS = 500
"""Invoices are dated within so many days from the first one on."""


@dataclass(frozen=True)
class Vendor:
    """Who bills, and what its invoices look like.

    Attributes:
        name: Printed in the letterhead.
        address: Printed below it.
        currency: ISO 4217.
        vat_percent: Rate of the value-added tax.
        color: Key of `palette.COLORS`.
        layout: Key of `drawing.LETTERHEADS`.
        font: File in `demo/fonts`.
        number: Format of invoice numbers, of a year and a number.
        date_format: Of `strftime`.
        goods: What it sells.
    """

    name: str
    address: str
    currency: str
    vat_percent: int
    color: str
    layout: str
    font: str
    number: str
    date_format: str
    goods: tuple[str, ...]


SANS, SERIF = "DejaVuSans.ttf", "DejaVuSerif.ttf"
VENDORS = (
    Vendor(
        name="Nordlys Papir",
        address="Havnegata 12, 7010 Trondheim",
        currency="NOK",
        vat_percent=25,
        color="blue",
        layout="band",
        font=SANS,
        number="{year}-{number:04d}",
        date_format="%d.%m.%Y",
        goods=("Copy paper A4", "Envelopes C5", "Binder, black", "Label roll", "Card stock"),
    ),
    Vendor(
        name="Alder & Finch",
        address="3 Mill Lane, Bath BA1 5QH",
        currency="GBP",
        vat_percent=20,
        color="green",
        layout="center",
        font=SERIF,
        number="AF{number:05d}",
        date_format="%d %B %Y",
        goods=("Oak shelf", "Picture frame", "Beeswax", "Brass hook", "Linen cloth"),
    ),
    Vendor(
        name="Castellan Tools",
        address="Rue des Forges 48, 4000 Liège",
        currency="EUR",
        vat_percent=21,
        color="red",
        layout="left",
        font=SANS,
        number="CT/{number:04d}/{year}",
        date_format="%d/%m/%Y",
        goods=("Drill bit 6 mm", "Torque wrench", "Safety gloves", "Hex key set", "Saw blade"),
    ),
    Vendor(
        name="Brightwater Supply",
        address="810 Pier Ave, Portland OR 97209",
        currency="USD",
        vat_percent=0,
        color="cyan",
        layout="right",
        font=SANS,
        number="INV-{number:05d}",
        date_format="%B %d, %Y",
        goods=("Filter cartridge", "Hose 10 ft", "Valve, brass", "Test strips", "Pump seal"),
    ),
    Vendor(
        name="Maison Lavoir",
        address="17 quai Sud, 69002 Lyon",
        currency="EUR",
        vat_percent=20,
        color="purple",
        layout="band",
        font=SERIF,
        number="F{year}{number:04d}",
        date_format="%d/%m/%Y",
        goods=("Table linen", "Napkins, 12", "Apron", "Laundry, 1 kg", "Tea towel"),
    ),
    Vendor(
        name="Quarry Street Print",
        address="61 Quarry St, Leeds LS6 2JU",
        currency="GBP",
        vat_percent=20,
        color="black",
        layout="left",
        font=SERIF,
        number="{number:06d}",
        date_format="%d %b %Y",
        goods=("Flyers A5, 500", "Poster A2", "Business cards", "Folding", "Proof"),
    ),
    Vendor(
        name="Sol Verde Foods",
        address="Carrer Nou 5, 08002 Barcelona",
        currency="EUR",
        vat_percent=10,
        color="orange",
        layout="right",
        font=SANS,
        number="SV-{year}-{number:03d}",
        date_format="%d-%m-%Y",
        goods=("Olive oil 5 l", "Almonds 1 kg", "Dried figs", "Sea salt", "Honey 500 g"),
    ),
    Vendor(
        name="Hartmann Technik",
        address="Werkstrasse 9, 8004 Zürich",
        currency="CHF",
        vat_percent=8,
        color="yellow",
        layout="center",
        font=SANS,
        number="RE {number:05d}",
        date_format="%d.%m.%Y",
        goods=("Relay 24 V", "Cable 10 m", "Sensor M12", "Fuse 2 A", "Terminal block"),
    ),
)
CUSTOMERS = ("Fern Labs", "Studio Okapi", "Harbor Clinic", "Tern & Co", "Kestrel School")


@dataclass(frozen=True)
class Item:
    """A line of an invoice.

    Attributes:
        name: What was sold.
        quantity: How many.
        price: Of one, in hundredths of the currency.
    """

    name: str
    quantity: int
    price: int

    @property
    def amount(self) -> int:
        """Of the line, in hundredths of the currency."""
        return self.quantity * self.price


@dataclass(frozen=True)
class Invoice:
    """An invoice.

    Attributes:
        vendor: Who bills.
        customer: Who pays.
        number: As it is printed.
        day: Of the invoice.
        items: Lines, one to five.
    """

    vendor: Vendor
    customer: str
    number: str
    day: date
    items: tuple[Item, ...]

    @property
    def subtotal(self) -> int:
        """Sum of the lines, in hundredths of the currency."""
        return sum(item.amount for item in self.items)

    @property
    def tax(self) -> int:
        """Value-added tax, in hundredths of the currency."""
        return round(self.subtotal * self.vendor.vat_percent / 100)

    @property
    def total(self) -> int:
        """What is to be paid, in hundredths of the currency."""
        return self.subtotal + self.tax

    def fields(self) -> dict[str, Any]:
        """Everything that one may ask for, as JSON values: dates as ISO 8601, amounts as text."""
        return {
            "vendor": self.vendor.name,
            "number": self.number,
            "date": self.day.isoformat(),
            "items": [
                {"name": item.name, "quantity": item.quantity, "amount": plain(item.amount)}
                for item in self.items
            ],
            "lines": len(self.items),
            "total": plain(self.total),
            "currency": self.vendor.currency,
        }


def draw_invoice(rng: random.Random) -> Invoice:
    """Draw an invoice.

    Args:
        rng: What decides.
    """
    vendor = rng.choice(VENDORS)
    day = FIRST_DAY + timedelta(days=rng.randrange(DAYS))
    names = rng.sample(vendor.goods, rng.randint(1, len(vendor.goods)))
    return Invoice(
        vendor,
        customer=rng.choice(CUSTOMERS),
        number=vendor.number.format(year=day.year, number=rng.randint(1, 999)),
        day=day,
        items=tuple(Item(name, rng.randint(1, 12), rng.randint(150, 9900)) for name in names),
    )


def plain(hundredths: int) -> str:
    """An amount as programs write it: "1240.50".

    Args:
        hundredths: Of the currency.
    """
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def printed(hundredths: int) -> str:
    """An amount as people print it: "1,240.50".

    Args:
        hundredths: Of the currency.
    """
    return f"{hundredths // 100:,}.{hundredths % 100:02d}"
