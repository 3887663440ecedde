"""How much of each source a micro-batch takes: shares, and a schedule of the text share, as exact counts.

Modality warm-up and whole-step grouping are those of the DeepSeek-VL paper (arXiv 2403.05525, section 3.2).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dsvl_tune.core.errors import UserError


@dataclass(frozen=True)
class Ramp:
    """A share that goes from one value to another over optimizer steps, and stays there.

    Args:
        start: share before the ramp, 0..1.
        end: share after it, 0..1.
        steps: optimizer steps that it takes.
        first: optimizer step at which it begins.
        shape: "linear", or "cosine", which begins and ends gently.
    """

    start: float
    end: float
    steps: int
    first: int = 0
    shape: Literal["linear", "cosine"] = "linear"

    def check(self) -> None:
        """Raise unless shares and steps can be."""
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1 and self.steps > 0 and self.first >= 0):
            raise UserError(
                f"data.text_share: from {self.start} to {self.end} in {self.steps} steps from step {self.first}. "
                "Expected shares between 0 and 1, at least one step, and no step before 0."
            )

    def at(self, step: int) -> float:
        """The share at an optimizer step."""
        done = min(max((step - self.first) / self.steps, 0.0), 1.0)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Mixture:
    """What a mixture is made of.

    Attributes:
        shares: of each source, positive; they need not sum to 1.
        text: whether each source is text alone.
        text_share: of the text sources together, by optimizer step; the others share the rest. None leaves it to
            `shares`.
        homogeneous_steps: whether an optimizer step is all text or has no text source in it.
        batches_per_step: micro-batches of an optimizer step.
    """

    shares: tuple[float, ...]
    text: tuple[bool, ...]
    text_share: Ramp | None = None
    homogeneous_steps: bool = False
    batches_per_step: int = 1

    def __post_init__(self) -> None:
        if any(not share > 0 for share in self.shares):
            raise UserError(
                f"data.shares: {self.shares}, expected positive numbers. Leave a source out instead."
            )
        if self.text_share is not None:
            self.text_share.check()
        if (self.text_share or self.homogeneous_steps) and len(set(self.text)) < 2:
            raise UserError(
                "data.text_share and homogeneous_steps part text from images, but the sources are all of one kind. Name the "
                "sources of text in text_only, and have another one."
            )

    def text_part(self, step: int) -> float:
        """Share of text at an optimizer step."""
        if self.text_share is not None:
            return self.text_share.at(step)
        return sum(share for share, text in zip(self.shares, self.text, strict=True) if text) / sum(
            self.shares
        )

    def inner(self, text: bool) -> list[float]:
        """Each source's share among those of its kind; 0 for the other kind."""
        own = [
            share if kind == text else 0.0
            for share, kind in zip(self.shares, self.text, strict=True)
        ]
        return [share / (sum(own) or 1.0) for share in own]


class Counts:
    """How many rows each micro-batch takes of each source: whole numbers that never stray a row from their shares.

    What a source is owed adds up; each micro-batch pays out whole rows, the largest debts first. So the counts of
    micro-batch m follow from the mixture alone, by going through all before it once (some microseconds each).

    Args:
        mixture: the shares.
        rows: rows of a micro-batch over all processes.
    """

    def __init__(self, mixture: Mixture, rows: int) -> None:
        self.mixture, self.rows = mixture, rows
        self.owed = [0.0] * len(mixture.shares)
        self.step_owed = 0.0
        self.is_text: list[bool] = []
        self.before_flat = array("q", [0] * len(mixture.shares))
        self.kinds = {text: mixture.inner(text) for text in (True, False)}

    def before(self, batch: int) -> Sequence[int]:
        """Rows taken of each source by all micro-batches before this one."""
        width = len(self.owed)
        while len(self.before_flat) <= batch * width:
            self.advance()
        return self.before_flat[batch * width : (batch + 1) * width]

    def at(self, batch: int) -> list[int]:
        """Rows that a micro-batch takes of each source."""
        return [
            after - before
            for before, after in zip(self.before(batch), self.before(batch + 1), strict=True)
        ]

    def text_step(self, batch: int) -> bool:
        """Whether a micro-batch belongs to a whole step of text."""
        self.before(batch + 1)
        return (
            self.mixture.homogeneous_steps and self.is_text[batch // self.mixture.batches_per_step]
        )

    def advance(self) -> None:
        """Pay out the next micro-batch."""
        width = len(self.owed)
        batch = len(self.before_flat) // width - 1
        step = batch // self.mixture.batches_per_step
        part = self.mixture.text_part(step)
        if self.mixture.homogeneous_steps:
            if step == len(self.is_text):
                self.step_owed += part
                self.is_text.append(self.step_owed >= 0.5)
                self.step_owed -= self.is_text[-1]
            part = float(self.is_text[step])
        for i in range(width):
            text, images = self.kinds[True][i], self.kinds[False][i]
            self.owed[i] += self.rows * (text * part + images * (1 - part))
        owed = [
            debt if not self.mixture.homogeneous_steps or kind == part else -math.inf
            for debt, kind in self.debts()
        ]
        paid = pay(owed, self.rows)
        self.before_flat.extend(a + b for a, b in zip(self.before_flat[-width:], paid, strict=True))
        self.owed = [owed - got for owed, got in zip(self.owed, paid, strict=True)]

    def debts(self) -> Iterator[tuple[float, bool]]:
        """What each source is owed, and whether it is text."""
        return zip(self.owed, self.mixture.text, strict=True)


def pay(owed: Sequence[float], rows: int) -> list[int]:
    """`rows` whole rows by what is owed: its whole part, then one each by the largest rest. Nobody pays back."""
    paid = [math.floor(debt + 1e-9) if debt > 0 else 0 for debt in owed]
    while sum(paid) < rows:
        rest = [debt - got for debt, got in zip(owed, paid, strict=True)]
        paid[rest.index(max(rest))] += 1
    while sum(paid) > rows:
        rest = [debt - got if got else math.inf for debt, got in zip(owed, paid, strict=True)]
        paid[rest.index(min(rest))] -= 1
    return paid
