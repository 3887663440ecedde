"""MMMU (arXiv 2311.16502), validation split: choices and open questions, several images."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.choice_sets import guess_letter, option_texts, options
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_images, tsv_layout, tsv_row
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.choice_readers import read_mmmu
from dsvl_tune.evaluation.metrics.mmmu import MMMU as Official
from dsvl_tune.evaluation.metrics.mmmu import VLMEvalKitMMMU


@dataclass(frozen=True, kw_only=True)
class InterleavedBenchmark(Benchmark):
    """A benchmark whose texts say where its images are: `<image 1>`."""

    def parts(self, row: BenchmarkRow) -> tuple[str | ImageRef, ...]:
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


DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""Subjects of each domain: MMMU-Benchmark/MMMU, `mmmu/utils/data_utils.py`."""
DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
HIDDEN = "?"
"""Answer of the test split."""
MOST_IMAGES = 7


def _tsv_row(record: FileRecord) -> BenchmarkRow:
    """The row of a TSV record."""
    cells = dict(tsv_row(record).cells)
    cells["domain"] = DOMAIN_OF.get(cells.get("category", ""), "")
    return record.row(record.text("index"), tsv_images(record), cells)


def _parquet_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of MMMU/MMMU or lmms-lab/MMMU; its id has split and subject."""
    split, _, rest = record.text("id").partition("_")
    subject = rest.rpartition("_")[0]
    answer = record.text("answer")
    cells = {
        "id": record.text("id"),
        "question": record.text("question"),
        **record.options("options"),
        "answer": "" if answer == HIDDEN else answer,
        "category": subject,
        "l2-category": record.optional("subfield"),
        "domain": DOMAIN_OF.get(subject, ""),
        "split": split,
    }
    names = [f"image_{number}" for number in range(1, MOST_IMAGES + 1)]
    return record.row(record.text("id"), record.images(*names), cells)


def _submission(answered: Answered) -> dict[str, str]:
    """The file that EvalAI takes: the letter that the official rule reads, or an open answer."""
    return {
        row.cells.get("id", row.index): (read_mmmu(text, row.options) or text)
        if row.options
        else text
        for row, text in answered
    }


MMMU = InterleavedBenchmark(
    name="mmmu",
    layouts=(
        tsv_layout("MMMU_DEV_VAL.tsv", "A", "split", "category", row=_tsv_row),
        Layout(
            name="the hub's parquet",
            files=(
                "validation-*.parquet",
                "data/validation-*.parquet",
                *(f"{subject}/validation-*.parquet" for subject in DOMAIN_OF),
            ),
            fields=("id", "question", "options", "answer", "image_1", "question_type"),
            records=parquet_records,
            row=_parquet_row,
            index="id",
        ),
    ),
    dataset="MMMU_DEV_VAL",
    prompt=ask_choice,
    references=lambda row: row.texts("answer"),
    fields=options,
    candidates=option_texts,
    rules=(
        Rule(
            name="official",
            metric=Official(),
            figures=("mmmu", "mmmu_unread"),
            guess=guess_letter("mmmu"),
        ),
        Rule(
            name="vlmevalkit",
            metric=VLMEvalKitMMMU(),
            figures=("mmmu", "mmmu_unread"),
            guess=guess_letter("vlmevalkit"),
        ),
    ),
    breakdown=("split", "domain", "category"),
    submission=_submission,
    paper=(32.2, 36.6),
    note="VLMEvalKit's TSV has the dev split, too; papers report validation (see mmmu.json)",
)
