"""`dsvl-tune completion SHELL`: tab completion of commands, options, recipes and files."""

from __future__ import annotations

import argparse
import io
import re
from contextlib import redirect_stdout, suppress
from typing import Literal

from dsvl_tune.cli.parser import command_parser

OPTION = re.compile(r"^  (?:-\w(?: \S+)?, )?(--[\w.-]+)(?:[ =](\{[^}]+\}|[^\s,]+))?", re.MULTILINE)
"""An option in a help text, and its choices or the name of its value."""
RECIPES = {
    "bash": '_dsvl_tune_recipes() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_dsvl_tune_recipes() {{ _alternative 'recipes:recipe:({names})' 'files:file:_files' }}",
}
"""Function of a shell that completes what `--config` takes: a shipped recipe or a file."""


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print the tab completion of this command for a shell; write it where the shell looks for it.

      dsvl-tune completion bash > ~/.local/share/bash-completion/completions/dsvl-tune
      dsvl-tune completion zsh > ~/.zfunc/_dsvl-tune     # fpath+=~/.zfunc before compinit

    It completes commands, their options, choices, recipes and files. Write it again after an
    update.

    Args:
        shell: bash or zsh.
    """
    import shtab

    from dsvl_tune.recipe.shipped import shipped_recipes

    names = " ".join(shipped_recipes())
    preamble = RECIPES[shell].format(names=names)
    print(shtab.complete(_whole_parser(), shell=shell, preamble=preamble))


def _whole_parser() -> argparse.ArgumentParser:
    """Make a parser with every command and option, as their help texts list them."""
    from dsvl_tune.cli.main import COMMANDS

    parser = argparse.ArgumentParser(prog="dsvl-tune")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for command, purpose in COMMANDS.items():
        own = commands.add_parser(command, help=purpose, description=purpose)
        _add_options(own, _help_of(command))
        _complete(own.add_argument("arguments", nargs="*", help="further arguments"))
    return parser


def _help_of(command: str) -> str:
    """What a command prints for `--help`."""
    from dsvl_tune.cli.main import import_command

    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        import_command(command).main(["--help"])
    return text.getvalue()


def _add_options(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add the options of a help text to a parser."""
    for option, value in dict(OPTION.findall(help_text)).items():
        if option == "--help":
            continue
        if value.startswith("{"):
            parser.add_argument(option, choices=value.strip("{}").split(","))
        else:
            _complete(parser.add_argument(option))


def _complete(action: argparse.Action) -> None:
    """Let an argument be completed by files, the recipe of a command by names of recipes, too."""
    import shtab

    of_recipe = {"bash": "_dsvl_tune_recipes", "zsh": "_dsvl_tune_recipes"}
    is_recipe = "--config" in action.option_strings
    action.complete = of_recipe if is_recipe else shtab.FILE  # type: ignore[attr-defined]


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("completion", completion)
    completion(**vars(parser.parse_args(arguments)))
