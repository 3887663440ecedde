"""`dsvl-tune validate --config RECIPE`: loss and scores on the validation rows."""

from __future__ import annotations

from dsvl_tune.cli.evaluation import add_checkpoint_option, evaluation_run, print_evaluation
from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
validate: loss, and scores of generated answers, on the recipe's validation rows and held-out sets

  dsvl-tune validate --config charts_lora --model.checkpoint merged
  dsvl-tune validate --config runs/NAME/config.yaml --ckpt_path best

Without --ckpt_path, model.checkpoint is evaluated as it is."""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("validate", DESCRIPTION, arguments, add_checkpoint_option)
    with evaluation_run(recipe) as run:
        run.trainer.validate(
            recipe.model, datamodule=recipe.data, ckpt_path=run.checkpoint, verbose=False
        )
        print_evaluation(run.trainer, recipe.model)
