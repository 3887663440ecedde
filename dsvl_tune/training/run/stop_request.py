"""Requests to stop a run before its end: Ctrl-C, a scheduler's signal, the run's time limit."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

from dsvl_tune.core.errors import PREEMPTED

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""Signals that stop a run; Windows has no SIGUSR1."""


class RunStopped(BaseException):
    """A run ends before its last step because that was requested.

    It is not an error: handlers of `Exception` must not catch it.

    Args:
        exit_code: Exit code of the command.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(exit_code)


class StopRequest:
    """Records signals and the time limit while its `with` block runs.

    Outside of training (set-up, evaluation before and after) there is nothing to save: a signal
    raises `RunStopped` at once. During training `deferred` is on, and the training loop checks
    `requested` wherever a run checkpoint can be written.

    Args:
        time_limit_s: Seconds from now until the run should stop; None for no limit.

    Attributes:
        deferred: Whether signals are recorded instead of raising `RunStopped`.
        exit_code: Exit code of a run that stops now.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        # The monotonic clock does not jump when the system's time is set.
        self.deadline = float("inf") if time_limit_s is None else time.monotonic() + time_limit_s
        self.deferred = False
        self.exit_code = PREEMPTED
        self._signalled = False
        self._process = os.getpid()
        self._previous_handlers: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received or the time limit has passed."""
        return self._signalled or time.monotonic() >= self.deadline

    def __enter__(self) -> StopRequest:
        self._previous_handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self.install_handlers()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def install_handlers(self) -> None:
        """Handle the signals here, also those that Lightning handles.

        Lightning's handlers exchange messages between ranks, which must not happen mid-step.
        """
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Record the request; a second Ctrl-C ends the process at once."""
        if os.getpid() != self._process:
            return  # a data worker, signalled with its process group: the step needs its rows
        self.exit_code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        if not self.deferred:
            raise RunStopped(self.exit_code)
        hint = ""
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            hint = " (press Ctrl-C again to stop at once)"
        if not self._signalled:
            print(f"\nstopping after this optimizer step{hint}", flush=True)
        self._signalled = True
