"""The command line: a table of commands, each imported when it is called."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from dsvl_tune.cli.process import end_on_scheduler_signals, prepare_process
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.lost_memory import lost_memory
from dsvl_tune.core.machine import most_open_files
from dsvl_tune.core.package import VERSION
from dsvl_tune.core.quick_imports import quick_imports

COMMANDS = {
    "fit": "train by a recipe; score held-out questions before and after",
    "validate": "loss and scores on the recipe's validation rows",
    "test": "scores on the recipe's test rows",
    "predict": "answer every question of the recipe's test rows into a file",
    "benchmark": "answer published benchmarks and score them by their rules",
    "score": "score stored answers by any metrics, without a model",
    "check-data": "read every row of a recipe's data and report what is wrong",
    "preview": "a page that shows rows as the model will see them",
    "cache-features": "compute the features of frozen vision towers before training",
    "estimate-memory": "memory that a recipe needs, without loading the model",
    "sweep": "train with several values of some keys, and compare",
    "report": "a page about a run, a sweep, or several runs side by side",
    "merge": "merge a run's adapter into its base checkpoint, verified",
    "convert": "a checkpoint in transformers' or the original layout",
    "push": "send a merged checkpoint or an adapter to the Hugging Face hub",
    "init": "an untrained small checkpoint, to train from scratch",
    "recipes": "list the recipes of the package, or copy one",
    "examples": "list the example pictures of the package, or write them",
    "runs": "list runs with their results",
    "completion": "tab completion for bash or zsh",
    "env": "versions and hardware, for a bug report",
    "chat": "ask a model about images, in the terminal",
    "demo": "a local page to ask a model, next to its base, and to keep verdicts",
}
"""Command -> what it does. The command `check-data` is `main` in `commands/check_data.py`."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Errors of a full, limited or protected disk."""

BAD_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a path that leads to nothing of the kind that is expected."""

BROKEN_PIPE = 141
"""Exit code where nothing reads the output any more: 128 + SIGPIPE, as in shells."""

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""Errors of a process or a machine that may not open another file."""

LESS_MEMORY = {
    "merge": "give --rows below 16 (0 verifies without loading the model)",
    "benchmark": "lower --batch_size or --max_new_tokens",
    "chat": "give --dtype bfloat16, a shorter question or fewer images",
}
"""Command -> what makes it need less memory. Commands with a recipe name its keys themselves."""

HELP = """\
dsvl-tune {version}: fine-tune DeepSeek-VL

usage: dsvl-tune COMMAND [options]        dsvl-tune COMMAND --help

{commands}

options:
  --version      print the version
  --debug        show the traceback of an error, with any command

first steps:
  dsvl-tune fit --config charts_lora                 a small model learns charts (CPU, minutes)
  dsvl-tune merge runs/charts_lora --out merged      the result as one transformers checkpoint
  dsvl-tune examples --name chart                    a chart that it has not seen
  dsvl-tune chat --model merged --image chart.png --prompt "What is the value of the red bar?"

Stop a run with Ctrl-C; run the same command again to resume it, also after a kill.

exit codes:
  0    done
  2    invalid input or environment (see the message)
  75   stopped by SIGTERM, SIGUSR1 or the time limit; run the same command again to resume
  130  stopped by Ctrl-C
  141  broken pipe (stdout closed)
"""


def main() -> None:
    """Run the command that the first argument names."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    name = arguments[0] if arguments else "--help"
    prepare_process()
    with _silent_broken_pipe(), _exit_codes(name, debug):
        if name in ("-h", "--help", "help"):
            print(help_text(), end="")
        elif name == "--version":
            print(f"dsvl-tune {VERSION}")
        else:
            if name in ("fit", "sweep"):
                end_on_scheduler_signals()
            try:
                import_command(name).main(_with_new_names(arguments[1:]))
            finally:
                gc.unfreeze()  # of a process that runs several commands


def help_text() -> str:
    """What `dsvl-tune --help` prints."""
    commands = "\n".join(f"  {name:<15} {purpose}" for name, purpose in COMMANDS.items())
    return HELP.format(version=VERSION, commands=commands)


def import_command(name: str) -> Any:
    """Import the module of a command.

    Raises:
        UserError: There is no such command.
    """
    if name not in COMMANDS:
        raise UserError(f"{unknown_name('command', name, COMMANDS)} See dsvl-tune --help.")
    with quick_imports():
        return importlib.import_module(f"dsvl_tune.cli.commands.{name.replace('-', '_')}")


def _with_new_names(options: list[str]) -> list[str]:
    """Replace old keys and options, with a warning for each."""
    from dsvl_tune.core.renamed_keys import rename_arguments, renamed_text

    options, renamed = rename_arguments(options)
    if renamed:
        print(renamed_text(renamed), file=sys.stderr)
    return options


@contextmanager
def _exit_codes(command: str, debug: bool) -> Iterator[None]:
    """Turn errors of the block into one message and an exit code.

    Args:
        command: Name of the command.
        debug: Whether to raise them instead.
    """
    try:
        yield
    except UserError as error:
        if debug:
            raise
        _fail(str(error))
    except (OSError, RuntimeError, ImportError, MemoryError) as error:
        message = _memory_message(error, command)
        if message is None and isinstance(error, OSError):
            message = _file_message(error)
        if debug or message is None:
            raise
        _fail(message)
    except KeyboardInterrupt:
        sys.exit(130)


def _memory_message(error: Exception, command: str) -> str | None:
    """Describe that memory ran out, and what to do; None for any other error."""
    problem = lost_memory(error)
    if problem is None:
        return None
    remedy = LESS_MEMORY.get(command, "lower what the command holds at a time")
    return f"{problem}. Close other programs, or {remedy}."


def _file_message(error: OSError) -> str | None:
    """Describe an error of the file system that the user can do something about.

    Returns:
        The message; None for any other error.
    """
    if error.errno in TOO_MANY_FILES:
        most = most_open_files()
        limit = f"this process may open {most:,} files. " if most else ""
        return (
            f"{error.strerror}: {limit}Raise that limit (ulimit -n 4096), or lower "
            "data.num_workers."
        )
    path = error.filename
    if error.errno in BAD_PATH and path:
        return f"{path}: {error.strerror}. Give another path."
    if error.errno not in UNWRITABLE:
        return None
    if (
        error.errno == errno.EACCES
        and path
        and os.path.exists(path)
        and not os.access(path, os.R_OK)
    ):
        return f"{path}: cannot be read ({error.strerror}). Change its permissions."
    return (
        f"{path or 'the output'}: could not be written ({error.strerror}). Files that were "
        "finished before are intact. Free some space or give another folder."
    )


def _fail(message: str) -> NoReturn:
    """Print one message on a line of its own and exit with code 2."""
    _close_progress_bars()
    print(f"dsvl-tune: error: {UserError(message)}", file=sys.stderr)  # escaped, not too long
    sys.exit(2)


def _close_progress_bars() -> None:
    """End the lines of progress bars that an error left open, Lightning's among them."""
    loaded: Any = sys.modules.get("tqdm")
    for bar in list(getattr(loaded.tqdm, "_instances", ())) if loaded else ():
        bar.close()


@contextmanager
def _silent_broken_pipe() -> Iterator[None]:
    """End quietly once nothing reads the output any more, e.g. in `dsvl-tune ... | head`."""
    try:
        try:
            yield
        finally:
            print(
                end="", flush=True
            )  # a failing flush after Python's last line could not be caught
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:  # the broken pipe is another one
            raise
        for stream in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(BROKEN_PIPE)


def _is_unread(stream: TextIO) -> bool:
    """Whether the reading end of a stream is closed; Windows cannot tell, and it is assumed."""
    if sys.platform == "win32":
        return True
    poll = select.poll()
    poll.register(stream, 0)  # reports errors only
    return bool(poll.poll(0))
