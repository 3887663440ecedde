"""`dsvl-tune recipes`: the recipes of the package, to use by name or to copy."""

from __future__ import annotations

import sys
from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.storage.files import write_text
from dsvl_tune.core.storage.outputs import check_new
from dsvl_tune.core.text_table import format_table


def recipes(name: str | None = None, out: Path | None = None) -> None:
    """List the recipes of the package; with a name, print one or copy it to a file.

      dsvl-tune recipes
      dsvl-tune recipes charts_lora --out mine.yaml

    Each can be used by its name, `fit --config NAME`. Data presets are given after a recipe that
    names the model. A copy is yours to change: its comments say what can be changed, and why.

    Args:
        name: A recipe to print.
        out: File to copy it to; it must not exist yet.
    """
    from dsvl_tune.recipe.shipped import purpose_of, shipped_recipes

    shipped = shipped_recipes()
    if name is None and out is not None:
        raise UserError(f"--out {out}: nothing to copy. Give the name of a recipe, too.")
    if name is None:
        rows = [[recipe, purpose_of(path)] for recipe, path in shipped.items()]
        print(format_table(["recipe", "purpose"], rows, left=2))
        return
    if name not in shipped:
        raise unknown_name("recipe", name, shipped)
    text = shipped[name].read_text(encoding="utf-8")
    if out is None:
        sys.stdout.write(text)
        return
    check_new(out, "--out")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: no such folder. Give a file in an existing one.")
    write_text(out, text)
    print(f"recipe: {out}\nnext: dsvl-tune fit --config {out}")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("recipes", recipes, skip={"name"})
    parser.add_argument("name", nargs="?", default=None, help="a recipe to print")
    recipes(**vars(parser.parse_args(arguments)))
