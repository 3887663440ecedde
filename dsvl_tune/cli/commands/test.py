"""`dsvl-tune test --config RECIPE`: scores on the test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from dsvl_tune.cli.evaluation import (
    EvaluationRun,
    add_checkpoint_option,
    evaluation_run,
    print_evaluation,
)
from dsvl_tune.recipe.command import parse_recipe

if TYPE_CHECKING:
    from dsvl_tune.evaluation.scoring import ScoreTable
    from dsvl_tune.recipe.recipe import Recipe

DESCRIPTION = """\
test: scores of generated answers on the recipe's test rows

  dsvl-tune test --config runs/NAME/config.yaml --ckpt_path best
  dsvl-tune test --config charts_lora --model.checkpoint merged

Without --ckpt_path, model.checkpoint is evaluated as it is. --blank answers the rows again with a
blank image (image), or with blank pixels in what one vision tower of a model with several sees, and
prints what changes."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    add_checkpoint_option(parser)
    parser.add_argument(
        "--blank",
        type=list[str],
        default=[],
        help="what is blanked in turn: [image], or names of vision towers",
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("test", DESCRIPTION, arguments, add_options)

    from dsvl_tune.evaluation.blanking import check_blanks
    from dsvl_tune.training.run.checks import check_answers, set_up_test

    blanks = recipe.config.blank
    check_blanks(blanks, recipe.model.processor, "--blank")
    with evaluation_run(recipe) as run:
        set_up_test(recipe.data)
        check_answers(recipe.data)
        whole = _test(recipe, run)
        if not blanks:
            print_evaluation(run.trainer, recipe.model)
            return
        blanked = {name: _test(recipe, run, name) for name in blanks}
        if run.trainer.is_global_zero:
            print(_table(whole, blanked, recipe))


def _test(recipe: Recipe, run: EvaluationRun, blank: str | None = None) -> list[ScoreTable]:
    """Answer and score the test rows.

    Args:
        recipe: of the command.
        run: that evaluates.
        blank: what of their images is blanked.
    """
    model: Any = recipe.model
    model.blank = blank
    run.trainer.test(model, datamodule=recipe.data, ckpt_path=run.checkpoint, verbose=False)
    return list(model.tables["test"])


def _table(whole: list[ScoreTable], blanked: dict[str, list[ScoreTable]], recipe: Recipe) -> str:
    """Every figure with whole images, and with parts of them blanked."""
    from dsvl_tune.core.text_table import format_table
    from dsvl_tune.evaluation.figures_table import change_text, figure_text, is_percent
    from dsvl_tune.evaluation.scoring import set_figures
    from dsvl_tune.evaluation.statistics import changes

    figures = {name: set_figures(tables) for name, tables in blanked.items()}
    changed = {name: changes(whole, tables) for name, tables in blanked.items()}
    lines = []
    for figure, value in set_figures(whole).items():
        percent = is_percent(figure, recipe.data.metrics)
        cells = [
            f"{figure_text(figures[name].get(figure), percent=percent)} "
            f"({change_text(changed[name].get(figure), percent=percent)})"
            for name in blanked
        ]
        lines.append([figure, figure_text(value, percent=percent), *cells])
    return format_table(["figure", "whole images", *(f"{one} blanked" for one in blanked)], lines)
