"""What asks a run to stop before its end: Ctrl-C, a scheduler's signal, its own time limit."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

PREEMPTED = 75
"""Exit code of a run that can be gone on with by the same command: EX_TEMPFAIL of BSD's sysexits.h, "try again"."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class RunStopped(BaseException):
    """A run ends before its last step because it was asked to; not an error, so no handler of errors may take it."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(exit_code)


class StopRequest:
    """Notes signals and the time limit while the `with` block runs; `asked` says that the run should stop.

    While `deferred` is off (set-up, the questions before and after) there is nothing to save, and a signal raises
    `RunStopped` at once. While it is on, whoever set it looks at `asked` where a checkpoint can be written.

    Args:
        time_limit_s: seconds from now, by a clock that nobody sets; None for no limit.
    """

    def __init__(self, time_limit_s: float | None = None) -> None:
        self.deadline = float("inf") if time_limit_s is None else time.monotonic() + time_limit_s
        self.deferred = False
        self.exit_code = PREEMPTED
        self.signalled = False
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came or the time is over."""
        return self.signalled or time.monotonic() >= self.deadline

    def __enter__(self) -> StopRequest:
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals, also from Lightning, which exchanges messages between processes in its handlers."""
        for number in SIGNALS:
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note the wish; a second Ctrl-C ends at once."""
        if os.getpid() != self.process:
            return  # a data worker, which a signal to the whole group reaches too: the step needs its rows
        self.exit_code = INTERRUPTED if number == signal.SIGINT else PREEMPTED
        if not self.deferred:
            raise RunStopped(self.exit_code)
        hint = ""
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            hint = " (press Ctrl-C again to stop at once)"
        if not self.signalled:
            print(f"\nstopping after this optimizer step{hint}", flush=True)
        self.signalled = True
