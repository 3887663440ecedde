"""Bounds on what files from outside may cost: their templates and regular expressions are programs.

A pattern such as (a+)+b can take longer than the universe is old, and a template can ask for more
memory than there is. Neither can be stopped from another thread, so each runs in a process of its
own, which the system bounds: that holds in any thread, in notebooks and in data workers.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PROCESS = Path(__file__).with_name("limited_process.py")
"""What the process runs."""
CPU_SECONDS = 3
"""Most time of computing, not known on Windows; real templates and patterns take milliseconds."""
SECONDS = 60.0
"""Most time on the clock: a busy machine may take long to start a process."""
MEMORY_BYTES = 1 << 30
"""Most memory of the process, not bounded on Windows."""
MOST_CHARACTERS = 1_000_000
"""Longest text that a template may render to."""


class ProgramFailed(Exception):
    """A template or a pattern is faulty, or takes more time or memory than it may."""


def render_template(template: str, variables: Mapping[str, Any]) -> str:
    """What a chat template renders to, as transformers renders it.

    Args:
        template: in Jinja's language.
        variables: plain values by name.

    Raises:
        ProgramFailed: It is faulty, or exceeds a bound.
    """
    text: str = _run("render", template, variables, MOST_CHARACTERS)
    return text


def first_fitting(patterns: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """For each name the index of the first pattern that fits the whole of it.

    Args:
        patterns: regular expressions.
        names: to match.

    Returns:
        An index of `patterns`, or None, a name.

    Raises:
        ProgramFailed: A pattern is faulty, or matching exceeds a bound.
    """
    indices: list[int | None] = _run("match", patterns, names)
    return indices


def _run(function: str, *arguments: Any) -> Any:
    """Call a function of `limited_process` in a process of its own."""
    request = {
        "function": function,
        "arguments": arguments,
        "path": sys.path,
        "cpu_seconds": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES,
    }
    answer = json.loads(_answer(json.dumps(request)))
    if "error" in answer:
        raise ProgramFailed(answer["error"])
    return answer["result"]


@lru_cache(maxsize=8)  # a command opens the same checkpoint and adapter more than once
def _answer(request: str) -> bytes:
    """What the process writes, which is JSON."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PROCESS)],
            input=request.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"it takes more than {SECONDS:g} s") from None
    except OSError as error:
        raise ProgramFailed(f"no process could be started for it: {error}") from error
    if sys.platform != "win32" and done.returncode == -signal.SIGXCPU:
        raise ProgramFailed(f"it takes more than {CPU_SECONDS} s")
    if done.returncode:  # killed, or unable to start: the last line says why
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ProgramFailed(
            f"its process ended with code {done.returncode}: {reason or 'no message'}"
        )
    return done.stdout
