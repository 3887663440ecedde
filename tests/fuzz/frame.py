"""Seeded fuzzing: bad input is read right or ends in one UserError, and no file changes.

A kind of input is a function that writes one damaged input and says what a command does with it.
`test_fuzz_*.py` runs a few cases of each kind, `benchmarks/soak/fuzz.py` thousands. A case is named
by its kind and number, which seed everything about it.
"""

from __future__ import annotations

import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple

from dsvl_tune.core.errors import MESSAGE_CHARACTERS, UserError

CASE_SECONDS = 20
"""A case that takes longer hangs. The slowest honest ones take a second or two."""
CASE_BYTES = 1 << 30
"""Memory that a case may take on top of what the process had."""


class Case(NamedTuple):
    """One damaged input.

    Attributes:
        act: what a command does with it; writes to the folder `out` next to the input, if anywhere.
        check: asserts that what `act` returned is right.
    """

    act: Callable[[], object]
    check: Callable[[object], None] = lambda result: None


Kind = Callable[[Path, Random], Case]
"""Writes an input to a folder, damaged as the random numbers say."""


class Fault(NamedTuple):
    """A case that ended in another way than it may.

    Attributes:
        kind: name of the kind.
        number: of the case.
        reason: what happened.
    """

    kind: str
    number: int
    reason: str


class Hang(BaseException):
    """A case took too long; no `except Exception` on the way may catch it."""


def run_cases(name: str, kind: Kind, numbers: range, folder: Path) -> Iterator[Fault | None]:
    """Run cases of a kind, each in a fresh folder.

    Args:
        name: of the kind; part of the seed.
        kind: makes the cases.
        numbers: of the cases.
        folder: for their files; emptied after each case without a fault.

    Yields:
        For each case its fault, or None.
    """
    for number in numbers:
        place = folder / f"{name}_{number}"
        shutil.rmtree(place, ignore_errors=True)
        (place / "in").mkdir(parents=True)
        (place / "out").mkdir()
        reason = run_case(kind, Random(f"{name} {number}"), place)
        if reason is None:
            shutil.rmtree(place)
        yield None if reason is None else Fault(name, number, reason)


def run_case(kind: Kind, chance: Random, place: Path) -> str | None:
    """Run one case.

    Args:
        kind: makes it.
        chance: the only source of randomness.
        place: folder with the folders `in` and `out`.

    Returns:
        What is wrong; None if the case ended as it may.
    """
    case = kind(place / "in", chance)
    before = content_of(place / "in")
    memory = peak_bytes()
    try:
        with time_limit(CASE_SECONDS):
            case.check(case.act())
    except UserError as error:
        if not str(error) or len(str(error)) > MESSAGE_CHARACTERS + 40:
            return f"a message of {len(str(error))} characters"
    except (Exception, Hang) as error:
        return "".join(traceback.format_exception(error))
    if content_of(place / "in") != before:
        return "the input changed"
    if peak_bytes() - memory > CASE_BYTES:
        return f"took {(peak_bytes() - memory) / 1e9:.1f} GB"
    return None


def content_of(folder: Path) -> dict[str, str]:
    """What is below a folder: a digest of each file, where each link leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "not a file"
    return found


def peak_bytes() -> int:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang inside the block after so many seconds."""

    def stop(*_: object) -> None:
        raise Hang(f"not done after {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
