"""Run `dsvl-tune` commands in forked processes, so that importing everything (10 s) happens once.

As a script it is a server for another process: a request and an answer are one line of JSON each.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from forking import fork

import dsvl_tune.cli.commands.fit
from dsvl_tune.cli.main import main

SCRIPT = str(Path(dsvl_tune.__file__).with_name("__main__.py"))
"""What `python -m dsvl_tune` runs: for a command that starts further processes of itself."""


def start(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    memory_bytes: int | None = None,
) -> int:
    """Run `dsvl-tune` in a forked process with a process group of its own.

    Args:
        arguments: of the command.
        folder: working directory.
        log: file that stdout and stderr are appended to.
        environment: further environment variables.
        memory_bytes: bound on the memory beyond what the process has at its start.

    Returns:
        The process id.
    """

    def command() -> None:
        os.setsid()
        os.chdir(folder)
        output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(environment or {})
        if memory_bytes is not None:
            there = (
                int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
                * resource.getpagesize()
            )
            resource.setrlimit(resource.RLIMIT_AS, (there + memory_bytes, there + memory_bytes))
        sys.argv = [SCRIPT, *arguments]
        main()

    pid = fork(command)
    while os.getpgid(pid) != pid:  # the caller may kill the group at once
        time.sleep(0.001)
    return pid


def poll(pid: int) -> int | None:
    """Exit code of a process that has ended; negative for the signal that ended it."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve() -> None:
    """Answer {"start": arguments} with a process id, {"poll": process id} with its exit code."""
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            arguments, folder, log, *rest = request["start"]
            answer = start(arguments, Path(folder), Path(log), *rest)
        else:
            answer = poll(request["poll"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
