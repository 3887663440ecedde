"""The rows of a benchmark, from a folder, a file or a data set on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsvl_tune.core.checkpoint.hub import HubName, download_data_set, hub_name
from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.benchmarks.layouts.base import Layout
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

if TYPE_CHECKING:
    from dsvl_tune.evaluation.benchmarks.base import Benchmark


@dataclass(frozen=True)
class OpenedBenchmark:
    """The rows of a benchmark, and where they are from.

    Attributes:
        layout: that the files have.
        files: that hold the rows.
        rows: of all files.
    """

    layout: Layout
    files: Sequence[Path]
    rows: Sequence[BenchmarkRow]

    @property
    def is_labelled(self) -> bool:
        """Whether the rows have answers; those of test splits are hidden."""
        return self.rows[0].is_labelled


def open_benchmark(benchmark: Benchmark, data: str) -> OpenedBenchmark:
    """Read a benchmark in the first of its layouts that is there.

    Args:
        benchmark: the benchmark.
        data: a folder that has a folder of the benchmark's name with its files, or the files; a
            single file of one of its layouts, e.g. of another split; or a data set on the hub.

    Raises:
        UserError: no layout fits, a record is not as its layout has it, or an index is there twice.
    """
    name = hub_name(data)
    if name is not None:
        data = str(_download(benchmark, name))
    layout, files = _find(benchmark, Path(data).expanduser())
    rows = list(layout.rows(files))
    if not rows:
        raise UserError(f"{files[0]}: no question with an image. Expected those of a benchmark.")
    _check(rows, layout)
    return OpenedBenchmark(layout, files, rows)


def _download(benchmark: Benchmark, name: HubName) -> Path:
    """Folder with the files of a benchmark of a data set on the hub.

    Raises:
        UserError: the hub does not give it, or it has no such files.
    """
    patterns = [pattern for layout in benchmark.layouts for pattern in layout.files]
    folder = download_data_set(name, tuple(patterns))
    if not any(layout.find_files(folder) for layout in benchmark.layouts):
        raise UserError(
            f"--data {name}: this data set on the hub has no file of {benchmark.name}. Expected "
            f"{_known_files(benchmark)}."
        )
    return folder


def _known_files(benchmark: Benchmark) -> str:
    """The file of each layout, for messages."""
    return "; ".join(f"{one.files[0]} ({one.name})" for one in benchmark.layouts)


def _find(benchmark: Benchmark, data: Path) -> tuple[Layout, list[Path]]:
    """The layout and the files of a benchmark.

    Raises:
        UserError: there are none, or their records have other fields.
    """
    foreign = None
    for layout, files in _candidates(benchmark, data):
        lacking = layout.missing_field(files[0])
        if lacking is None:
            return layout, files
        foreign = foreign or f"{files[0]}: no field {lacking!r}, which {layout.name} has"
    if foreign is not None:
        raise UserError(f"{foreign}. Expected a published layout of {benchmark.name}.")
    if not data.exists():
        raise UserError(f"--data {data}: no such folder or file.")
    places = f"it or {data / benchmark.name}" if data.is_dir() else "a folder"
    raise UserError(
        f"--data {data}: no file of {benchmark.name}. Expected in {places}: "
        f"{_known_files(benchmark)}."
    )


def _candidates(benchmark: Benchmark, data: Path) -> list[tuple[Layout, list[Path]]]:
    """Every layout that has files of its names, with these files."""
    if data.is_file():
        endings = [(one, {Path(name).suffix for name in one.files}) for one in benchmark.layouts]
        return [(layout, [data]) for layout, ending in endings if data.suffix in ending]
    found = [
        (layout, layout.find_files(folder))
        for folder in (data / benchmark.name, data)
        for layout in benchmark.layouts
    ]
    return [(layout, files) for layout, files in found if files]


def _check(rows: Sequence[BenchmarkRow], layout: Layout) -> None:
    """Raise if an index is there twice, or only some rows have an answer."""
    first: dict[str, BenchmarkRow] = {}
    for row in rows:
        other = first.setdefault(row.index, row)
        if other is not row:
            raise UserError(
                f"{row.source}: {layout.index} {row.index!r} is there twice, first in "
                f"{other.source}. Expected one row of each."
            )
    unlabelled = [row for row in rows if not row.is_labelled]
    if unlabelled and len(unlabelled) < len(rows):
        raise UserError(
            f"{unlabelled[0].source}: no answer, but other rows have one. Expected one for all."
        )
