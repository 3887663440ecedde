"""The run's `metrics.csv`: one file, also of a run that was stopped and resumed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dsvl_tune.core.storage.files import write_text
from dsvl_tune.training.callbacks.throughput import MACHINE_VALUES

METRICS = Path("metrics", "version_0", "metrics.csv")
"""In a run folder; where Lightning's CSVLogger puts the file of a first run."""


class MetricsFile(Logger):
    """Logs to `metrics.csv` as Lightning's CSVLogger does, but continues the file of its run.

    A run that is resumed logs its steps since the run checkpoint again, so their rows are dropped
    first: in the end the file is that of a run that was never stopped. CSVLogger would begin a new
    file, or remove the existing one. Speed and memory go to trackers alone, because the same run
    has the same file.

    Args:
        run_folder: Folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        super().__init__()
        self.path = run_folder / METRICS
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._written = 0

    @property
    def name(self) -> str:
        """Name of the folder with the versions."""
        return METRICS.parts[0]

    @property
    def version(self) -> str:
        """Name of the folder with the file."""
        return METRICS.parts[1]

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parents[2])

    @property
    def log_dir(self) -> str:
        """Folder with the file."""
        return str(self.path.parent)

    @property
    def rows(self) -> int:
        """Number of rows logged since the run began."""
        return len(self._rows)

    @rank_zero_only
    def resume(self, rows: int) -> None:
        """Read the file of the run and drop what was logged after the run checkpoint.

        Args:
            rows: Number of rows when the run checkpoint was saved; 0 starts a new file.
        """
        if not rows or not self.path.is_file():
            self.path.unlink(missing_ok=True)
            return
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            self._rows = list(islice(reader, rows))
            self._columns = list(reader.fieldnames or [])
        self._rewrite()

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the settings of a run are in its `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; the same row twice in succession is one.

        Args:
            metrics: Values by name.
            step: Optimizer steps before the one that logs.
        """
        kept = {n: value for n, value in metrics.items() if not n.startswith(MACHINE_VALUES)}
        row = {**kept, "step": step}
        if not self._rows or self._rows[-1] != row:
            self._rows.append(row)

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that are not in the file yet."""
        new = self._rows[self._written :]
        columns = sorted({*self._columns, *(name for row in new for name in row)})
        if columns != self._columns:
            self._columns = columns
            self._rewrite()
        elif new:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(new)
            self._written = len(self._rows)

    def _rewrite(self) -> None:
        """Write the whole file; it appears complete."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self._rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, text.getvalue())
        self._written = len(self._rows)
