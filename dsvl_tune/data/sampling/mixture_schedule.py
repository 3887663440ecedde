"""How many rows of each source a micro-batch takes: exact counts for ratios and a schedule of text.

Modality warm-up and homogeneous steps are those of the DeepSeek-VL paper (arXiv 2403.05525, section
3.2).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dsvl_tune.core.errors import UserError


@dataclass(frozen=True)
class Ramp:
    """A ratio that goes from one value to another over optimizer steps, and stays there.

    Args:
        start: ratio before the ramp, 0..1.
        end: ratio after it, 0..1.
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
        """Raise unless ratios and steps are in range."""
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1 and self.steps > 0 and self.first >= 0):
            raise UserError(
                f"data.text_ratio: from {self.start} to {self.end} in {self.steps} steps from step "
                f"{self.first}. Expected ratios between 0 and 1, at least one step, and no step "
                "before 0."
            )

    def at(self, step: int) -> float:
        """The ratio at an optimizer step."""
        done = min(max((step - self.first) / self.steps, 0.0), 1.0)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Mixture:
    """In which ratios sources are mixed.

    Attributes:
        ratios: of each source, positive; they need not sum to 1.
        text: whether each source is text alone.
        text_ratio: of the text sources together, by optimizer step; the others take the rest. None
            leaves it to `ratios`.
        homogeneous_steps: whether an optimizer step has rows of text sources only, or none of them.
        batches_per_step: micro-batches of an optimizer step.
    """

    ratios: tuple[float, ...]
    text: tuple[bool, ...]
    text_ratio: Ramp | None = None
    homogeneous_steps: bool = False
    batches_per_step: int = 1

    def __post_init__(self) -> None:
        if any(not ratio > 0 for ratio in self.ratios):
            raise UserError(
                f"data.ratios: {self.ratios}, expected positive numbers. "
                "Leave a source out instead."
            )
        if self.text_ratio is not None:
            self.text_ratio.check()
        if (self.text_ratio or self.homogeneous_steps) and len(set(self.text)) < 2:
            raise UserError(
                "data.text_ratio and homogeneous_steps separate text from images, but the sources "
                "are all of one kind. Name the sources of text in text_only, and add another one."
            )

    def text_part(self, step: int) -> float:
        """Ratio of text at an optimizer step, 0..1."""
        if self.text_ratio is not None:
            return self.text_ratio.at(step)
        pairs = zip(self.ratios, self.text, strict=True)
        return sum(ratio for ratio, is_text in pairs if is_text) / sum(self.ratios)

    def ratios_within(self, text: bool) -> list[float]:
        """Each source's ratio among the text sources, or among the others; 0 outside of them."""
        pairs = zip(self.ratios, self.text, strict=True)
        own = [ratio if is_text == text else 0.0 for ratio, is_text in pairs]
        total = sum(own) or 1.0
        return [ratio / total for ratio in own]


class RowCounts:
    """How many rows each micro-batch takes of each source: never a row away from the ratios.

    What each source is owed adds up, and each micro-batch pays it out in whole rows, the largest
    debts first. So the counts of a micro-batch follow from the mixture alone, by going through
    the micro-batches before it once (some microseconds each).

    Args:
        mixture: the ratios.
        rows: rows of a micro-batch.
    """

    def __init__(self, mixture: Mixture, rows: int) -> None:
        self.mixture = mixture
        self.rows = rows
        self.owed = [0.0] * len(mixture.ratios)
        self.text_steps_owed = 0.0
        self.text_steps: list[bool] = []
        self.totals = array("q", [0] * len(mixture.ratios))
        self.text_ratios = mixture.ratios_within(text=True)
        self.image_ratios = mixture.ratios_within(text=False)

    def before(self, batch: int) -> Sequence[int]:
        """Rows taken of each source by all micro-batches before this one."""
        width = len(self.owed)
        while len(self.totals) <= batch * width:
            self.advance()
        return self.totals[batch * width : (batch + 1) * width]

    def at(self, batch: int) -> list[int]:
        """Rows that a micro-batch takes of each source."""
        pairs = zip(self.before(batch), self.before(batch + 1), strict=True)
        return [after - before for before, after in pairs]

    def text_step(self, batch: int) -> bool:
        """Whether a micro-batch belongs to a homogeneous step of text."""
        if not self.mixture.homogeneous_steps:
            return False
        self.before(batch + 1)
        return self.text_steps[batch // self.mixture.batches_per_step]

    def advance(self) -> None:
        """Count the next micro-batch."""
        width = len(self.owed)
        batch = len(self.totals) // width - 1
        step = batch // self.mixture.batches_per_step
        text_ratio = self.mixture.text_part(step)
        if self.mixture.homogeneous_steps:
            text_ratio = float(self.is_text_step(step, text_ratio))
        for i in range(width):
            text, images = self.text_ratios[i], self.image_ratios[i]
            self.owed[i] += self.rows * (text * text_ratio + images * (1 - text_ratio))
        taken = whole_rows(self.payable(text_ratio), self.rows)
        last = self.totals[-width:]
        self.totals.extend(a + b for a, b in zip(last, taken, strict=True))
        self.owed = [owed - paid for owed, paid in zip(self.owed, taken, strict=True)]

    def is_text_step(self, step: int, ratio: float) -> bool:
        """Whether a homogeneous step is one of text; steps are asked for in order.

        Args:
            step: the optimizer step.
            ratio: of text at that step.
        """
        if step == len(self.text_steps):
            self.text_steps_owed += ratio
            self.text_steps.append(self.text_steps_owed >= 0.5)
            self.text_steps_owed -= self.text_steps[-1]
        return self.text_steps[step]

    def payable(self, text_ratio: float) -> list[float]:
        """What each source is owed; -inf for the other kind's sources in a homogeneous step."""
        if not self.mixture.homogeneous_steps:
            return self.owed
        pairs = zip(self.owed, self.mixture.text, strict=True)
        return [debt if is_text == text_ratio else -math.inf for debt, is_text in pairs]


def whole_rows(owed: Sequence[float], rows: int) -> list[int]:
    """Split `rows` between sources by largest remainder; no count is negative.

    Args:
        owed: rows that each source is owed.
        rows: how many to give out.
    """
    counts = [math.floor(debt + 1e-9) if debt > 0 else 0 for debt in owed]
    while sum(counts) < rows:
        rest = [debt - count for debt, count in zip(owed, counts, strict=True)]
        counts[rest.index(max(rest))] += 1
    while sum(counts) > rows:
        pairs = zip(owed, counts, strict=True)
        rest = [debt - count if count else math.inf for debt, count in pairs]
        counts[rest.index(min(rest))] -= 1
    return counts
