"""trackio as one of Lightning's loggers, which Lightning itself lacks."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from dsvl_tune.core.errors import UserError


class TrackioLogger(Logger):
    """Logs to trackio: into its local database, or to a Space of the Hugging Face hub.

    Args:
        project: name of the project.
        name: name of the run in trackio. A run of this name is continued; null always begins one.
        group: name that related runs share.
        space_id: Space to log to, e.g. owner/name; null logs to this machine.
    """

    def __init__(
        self,
        project: str = "dsvl-tune",
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
    ) -> None:
        super().__init__()
        self.project = project
        self.run_name = name
        self.group = group
        self.space_id = space_id
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of trackio, started when it is first needed.

        Raises:
            UserError: trackio is not installed.
        """
        if self._run is None:
            try:
                import trackio
            except ImportError as error:
                raise UserError(
                    f"trainer.logger: TrackioLogger needs trackio ({error}). "
                    "Install it: pip install 'dsvl-tune[trackio]'."
                ) from error
            self._run = trackio.init(
                self.project,
                name=self.run_name,
                group=self.group,
                space_id=self.space_id,
                resume="allow" if self.run_name else "never",
                embed=False,
            )
        return self._run

    @property
    def name(self) -> str:
        """Name of the project."""
        return self.project

    @property
    def version(self) -> str | None:
        """Name of the run in trackio."""
        return self.run_name if self._run is None else str(self._run.name)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Add settings to the run.

        Args:
            params: Values by name.
        """
        self.experiment.config.update(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add points.

        Args:
            metrics: Values by name.
            step: Optimizer steps before the one that logs.
        """
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is waiting, and end the run.

        Args:
            status: How the run ended.
        """
        if self._run is not None:
            self._run.finish()
            self._run = None
