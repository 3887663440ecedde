"""What the command line sets up in its process before anything heavy is imported."""

from __future__ import annotations

import atexit
import codecs
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any, TextIO

from dsvl_tune.core.errors import PREEMPTED
from dsvl_tune.core.machine import let_threads_sleep
from dsvl_tune.core.terminal import escape, escape_output, shorten

PLAIN = {"…": "...", "–": "-", "—": "-", "×": "x", "•": "*", "“": '"', "”": '"', "‘": "'", "’": "'"}
"""Characters of our own texts as terminals without Unicode can show them."""
NOTICE_CHARACTERS = 2_000
"""Longest warning of a library: a screen of 80 columns and 25 lines."""


def prepare_process() -> None:
    """Set up imports, threads and output for a command."""
    find_own_classes()
    use_writable_caches()
    let_threads_sleep()
    for stream in (sys.stdout, sys.stderr):
        degrade_characters(stream)
    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)
    escape_notices()
    # On every import it says that kernels for some processors are not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def end_on_scheduler_signals() -> None:
    """End with the exit code of a stopped run on a scheduler's signals.

    For the seconds in which a run imports its libraries and opens its files. Nothing is written
    then; later the run has handlers of its own.
    """
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        os.write(1, b"stopped before the first step; start it again to resume\n")
        os._exit(PREEMPTED)

    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), end)


def find_own_classes() -> None:
    """Let recipes name classes in the working folder, after everything that is installed.

    `python -m dsvl_tune` finds them anyway; the console script looks into its own folder instead.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def use_writable_caches() -> None:
    """Cache in a temporary folder where the usual one cannot be written, and say so in one line.

    Caches are for speed. A home folder can be missing or read-only: containers, clusters, a user
    without an entry in the password file. A hub cache that can only be read is read.
    """
    variables = os.environ
    usual = variables.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    hub = variables.get("HF_HOME") or os.path.join(usual, "huggingface")
    unwritable = [folder for folder in (usual, hub) if not _is_writable(folder)]
    if not unwritable:
        return
    try:
        temporary = tempfile.mkdtemp(prefix="dsvl_tune-")
    except OSError:
        return
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    variables.setdefault("HF_DATASETS_CACHE", os.path.join(temporary, "datasets"))
    if usual in unwritable:
        variables["XDG_CACHE_HOME"] = temporary
        variables.setdefault("MPLCONFIGDIR", os.path.join(temporary, "matplotlib"))
        variables.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(temporary, "inductor"))
    print(
        f"note: {escape(unwritable[0])} cannot be written; what is usually cached there is made "
        "again by every command. Set XDG_CACHE_HOME and HF_HOME to folders of your own.",
        file=sys.stderr,
    )


def _is_writable(folder: str) -> bool:
    """Whether a file can be written to a folder, or to the nearest one above it that exists."""
    if folder.startswith("~"):  # no home is known
        return False
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError:
        return False
    return True


class GuardedStream:
    """An output that escapes what could steer the terminal; otherwise the stream that it wraps.

    Args:
        stream: Standard output or error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, escaped."""
        self._stream.write(escape_output(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guarded(stream: Any) -> Any:
    """Wrap a stream that escapes nothing yet."""
    return stream if isinstance(stream, GuardedStream) else GuardedStream(stream)


def degrade_characters(stream: TextIO | Any) -> None:
    """Let a stream replace characters that its encoding lacks, where Python would end the program.

    Args:
        stream: Standard output or error; replaced ones that are no text file stay as they are.
    """
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error("degrade", _degrade)
        stream.reconfigure(errors="degrade")


def _degrade(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that cannot be encoded, as the error handlers of `codecs` do."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = "".join(PLAIN.get(character, "") or _escaped(character) for character in text)
    return shown, error.end


def _escaped(character: str) -> str:
    """Write a character as Python's escape."""
    return character.encode("ascii", "backslashreplace").decode("ascii")


def escape_notices() -> None:
    """Escape warnings and log messages of all libraries: they quote names, rows and configs."""
    make_record = logging.getLogRecordFactory()

    def escaped_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # logging reports a wrong format itself
            return record
        record.msg, record.args = shorten(escape(text, keep="\n\t"), NOTICE_CHARACTERS), None
        return record

    def escaped_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        text = shorten(escape(" ".join(str(message).split())), NOTICE_CHARACTERS)
        return f"warning: {text}\n"

    if make_record.__name__ != escaped_record.__name__:  # once a process
        logging.setLogRecordFactory(escaped_record)
    warnings.formatwarning = escaped_warning
