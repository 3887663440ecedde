"""`dsvl-tune test --config RECIPE`: scores on the test rows."""

from __future__ import annotations

from dsvl_tune.cli.evaluation import add_checkpoint_option, evaluation_run
from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
test: scores of generated answers on the recipe's test rows

  dsvl-tune test --config runs/NAME/config.yaml --ckpt_path best
  dsvl-tune test --config charts_lora --model.checkpoint merged

Without --ckpt_path, model.checkpoint is evaluated as it is."""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("test", DESCRIPTION, arguments, add_checkpoint_option)

    from dsvl_tune.training.run.checks import check_answers, set_up_test

    with evaluation_run(recipe) as run:
        set_up_test(recipe.data)
        check_answers(recipe.data)
        run.trainer.test(recipe.model, datamodule=recipe.data, ckpt_path=run.checkpoint)
