"""`dsvl-tune fit --config RECIPE`: train by a recipe."""

from __future__ import annotations

import sys

from dsvl_tune import api
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.distributed.rank_agreement import was_launched_by_first

DESCRIPTION = """\
fit: train by a recipe

A recipe is a YAML file. Keys on the command line override it, later ones win:

  dsvl-tune fit --config charts_lora
  dsvl-tune fit --config charts_lora --model.parts.language_model.rank 8 --trainer.max_steps 100
  dsvl-tune fit --config charts_lora --data InstructDataModule --data.train my.jsonl
  dsvl-tune fit --config charts_lora --time_limit_s 3600

model.* says what is trained and how, data.* on what; trainer.* are arguments of Lightning's
Trainer. --print_config shows every key and its value, --data.help CLASS those of a data module.

Ctrl-C, SIGTERM, SIGUSR1 and the time limit save after the current step. Run the same command again
to resume, also after a kill."""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = recipe_parser("fit", DESCRIPTION)
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help='run checkpoint to start from; "last" resumes the newest run of this name even if its '
        "recipe differs",
    )
    recipe = Recipe.parse(parser, arguments)
    run = api.fit(
        recipe.model,
        recipe.data,
        **recipe.run_options,
        ckpt_path=recipe.config.ckpt_path,
        settings=recipe.settings,
        **recipe.trainer,
    )
    # Lightning would kill the first rank because of a rank it launched that exits with a code.
    if run.exit_code and not was_launched_by_first():
        sys.exit(run.exit_code)
