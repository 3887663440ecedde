"""`dsvl-tune fit --config RECIPE`: train by a recipe."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from dsvl_tune.core.quick_imports import quick_imports
from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
fit: train by a recipe

A recipe is a YAML file. Keys on the command line override it, later ones win:

  dsvl-tune fit --config charts_lora
  dsvl-tune fit --config charts_lora --model.parts.language_model.rank 8 --trainer.max_steps 100
  dsvl-tune fit --config charts_lora --data InstructDataModule --data.train my.jsonl
  dsvl-tune fit --config charts_lora --time_limit_s 3600

model.* says what is trained and how, data.* on what; trainer.* are arguments of Lightning's
Trainer. --print_config shows every key and its value, --data.help CLASS those of a data module, a
class of your own in the working folder too (--data mydata.MyData).

Ctrl-C, SIGTERM, SIGUSR1 and the time limit save after the current step. Run the same command again
to resume, also after a kill."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own option."""
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help='run checkpoint to start from; "last" resumes the newest run of this name even if its '
        "recipe differs",
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("fit", DESCRIPTION, arguments, add_options)

    with quick_imports():
        from dsvl_tune import api
        from dsvl_tune.training.distributed.rank_agreement import was_launched_by_first

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
