"""TensorBoard files of a run, which a resumed run continues without repeating a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

FOLDER = "tensorboard"
"""Folder of the event files, in a run folder."""


class RunTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger in the run folder.

    A run that is resumed logs its steps since the run checkpoint again, into a new event file. It
    begins with the event at which TensorBoard forgets these steps of earlier files (the
    `purge_step` of SummaryWriter, which has to be known before the run checkpoint is read).

    Args:
        run_folder: Folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        super().__init__(run_folder, name="", version=FOLDER, default_hp_metric=False)
        self._has_earlier_files = (run_folder / FOLDER).is_dir()
        self._logged: tuple[Mapping[str, float], int | None] | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add points; the same ones twice in succession are logged once.

        Args:
            metrics: Values by name.
            step: Optimizer steps before the one that logs.
        """
        if self._logged != (metrics, step):
            super().log_metrics(metrics, step)
            self._logged = (metrics, step)

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Drop what earlier starts of the run logged after the run checkpoint.

        Args:
            step: Optimizer steps of the run checkpoint; 0 for a run that starts.
        """
        if self._has_earlier_files:
            started = Event(session_log=SessionLog(status=SessionLog.START))
            self.experiment._get_file_writer().add_event(started, step)

    @rank_zero_only
    def save(self) -> None:
        """Write what is waiting; the recipe has a file of its own in the run folder."""
        self.experiment.flush()
