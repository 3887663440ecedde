"""The command line: a table of commands, none of which is imported before it is asked for."""

from __future__ import annotations

import errno
import importlib
import os
import select
import signal
import sys
from typing import NamedTuple, TextIO

from dsvl_tune import __version__
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.renamed_keys import rename_arguments, renamed_text


class Command(NamedTuple):
    """Where a command lives and what it does."""

    module: str
    function: str
    does: str


COMMANDS = {
    "fit": Command(
        "dsvl_tune.cli.finetune_cli",
        "main",
        "train by a recipe; score held-out data before and after",
    ),
    "validate": Command(
        "dsvl_tune.cli.finetune_cli",
        "main",
        "loss and generated answers on the recipe's validation data",
    ),
    "test": Command(
        "dsvl_tune.cli.finetune_cli",
        "main",
        "scores of generated answers on the recipe's test data",
    ),
    "predict": Command(
        "dsvl_tune.cli.finetune_cli",
        "main",
        "answer every question of the recipe's test data into a file",
    ),
    "check-data": Command(
        "dsvl_tune.cli.commands.check_data", "main", "read every row of a recipe's data and report"
    ),
    "preview": Command(
        "dsvl_tune.cli.commands.preview", "main", "a page of rows as the model will see them"
    ),
    "cache-features": Command(
        "dsvl_tune.cli.commands.cache_features", "main", "keep what frozen towers make of images"
    ),
    "estimate-memory": Command(
        "dsvl_tune.cli.commands.estimate_memory", "main", "what a recipe takes, without loading it"
    ),
    "merge": Command(
        "dsvl_tune.cli.commands.merge",
        "main",
        "put a run's adapter into its base checkpoint, verified",
    ),
    "convert": Command(
        "dsvl_tune.cli.commands.convert",
        "main",
        "a checkpoint in transformers' or the original layout",
    ),
    "init": Command(
        "dsvl_tune.cli.commands.init",
        "main",
        "an untrained small checkpoint, to train from nothing",
    ),
    "chat": Command(
        "dsvl_tune.cli.commands.chat", "main", "ask a model about images, in the terminal"
    ),
}

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""What a full, limited or protected disk answers."""

HELP = """\
dsvl-tune {version}: fine-tune DeepSeek-VL

usage: dsvl-tune COMMAND [options]        dsvl-tune COMMAND --help

{commands}

options:
  --version      print the version
  --debug        show the traceback of an error, with any command

first steps:
  dsvl-tune fit --config charts_lora                      a small model learns to read charts (CPU, minutes)
  dsvl-tune merge runs/charts_lora --out merged           the result as one plain transformers checkpoint
  dsvl-tune chat --model merged --image chart.png --prompt "What is the value of the red bar?"

stop a run with Ctrl-C; the same command goes on, also after a kill.
exit codes: 0 done, 2 something to put right (one message says what), 75 stopped by SIGTERM, SIGUSR1 or its time limit
(the same command goes on), 130 stopped by Ctrl-C, 141 nobody reads the output any more
"""


def main() -> None:
    """Run the command that the first argument names; quietly no further once nobody reads what it prints."""
    try:
        try:
            answer(sys.argv[1:])
        finally:
            print(end="", flush=True)  # what is kept back would fail after the last line of Python
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if is_unread(stream)]
        if not unread:  # the pipe is another one
            raise
        for stream in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(128 + signal.SIGPIPE)


def is_unread(stream: TextIO) -> bool:
    """Whether what reads the stream is gone."""
    poll = select.poll()
    poll.register(stream, 0)  # errors alone
    return bool(poll.poll(0))


def answer(arguments: list[str]) -> None:
    """Run the command; its errors as one message and an exit code."""
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        sys.exit(0)
    if arguments[0] == "--version":
        print(f"dsvl-tune {__version__}")
        sys.exit(0)
    try:
        run(arguments)
    except UserError as error:
        if debug:
            raise
        fail(str(error))
    except OSError as error:
        if debug or error.errno not in NO_ROOM:
            raise
        fail(
            f"{error.filename or 'the output'}: could not be written ({error.strerror}). Files that were finished "
            "before are untouched. Make room or give another folder."
        )
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: list[str]) -> None:
    """Import the command and hand it the arguments.

    Raises:
        UserError: no such command.
    """
    name = arguments[0]
    if name not in COMMANDS:
        raise UserError(f"{unknown_name('command', name, COMMANDS)} See dsvl-tune --help.")
    command = COMMANDS[name]
    options, renamed = rename_arguments(arguments[1:])
    if renamed:
        print(renamed_text(renamed), file=sys.stderr)
    getattr(importlib.import_module(command.module), command.function)([name, *options])


def help_text() -> str:
    """What `dsvl-tune --help` prints."""
    commands = "\n".join(f"  {name:<15} {command.does}" for name, command in COMMANDS.items())
    return HELP.format(version=__version__, commands=commands)


def fail(message: str) -> None:
    """One message, exit code 2."""
    print(f"dsvl-tune: error: {message}", file=sys.stderr)
    sys.exit(2)
