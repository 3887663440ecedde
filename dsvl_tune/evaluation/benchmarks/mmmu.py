"""MMMU (arXiv 2311.16502), validation split: choices and open questions, several images."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.choice_sets import options
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics.mmmu import MMMU as Official


@dataclass(frozen=True, kw_only=True)
class InterleavedBenchmark(Benchmark):
    """A benchmark whose texts say where its images are: `<image 1>`."""

    def parts(self, row: TsvRow) -> tuple[str | ImageRef, ...]:
        """The user's message of a row; without a tag the images come first.

        Raises:
            UserError: a tag names an image that the row does not have.
        """
        pieces = re.split(r"<image (\d)>", self.prompt(row))
        if len(pieces) == 1:
            return (*row.images, pieces[0])
        parts: list[str | ImageRef] = [pieces[0]]
        for number, text in zip(pieces[1::2], pieces[2::2], strict=True):
            if not 1 <= int(number) <= len(row.images):
                raise UserError(
                    f"{row.source}: <image {number}>, but the row has {len(row.images)} images."
                )
            parts += [row.images[int(number) - 1], text]
        return tuple(part for part in parts if part != "")


MMMU = InterleavedBenchmark(
    name="mmmu",
    file="MMMU_DEV_VAL.tsv",
    prompt=ask_choice,
    references=lambda row: row.texts("answer"),
    fields=options,
    rules=(Rule(name="official", metric=Official(), figures=("mmmu", "mmmu_unread")),),
    breakdown=("split", "category"),
    paper=(32.2, 36.6),
    note="the file has the dev split, too; papers report the validation split (see mmmu.json)",
)
