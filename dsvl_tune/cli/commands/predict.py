"""`dsvl-tune predict --config RECIPE`: answer every test question into a file."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from dsvl_tune.cli.evaluation import add_checkpoint_option, evaluation_run
from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
predict: answer every question of the recipe's test rows, one JSON line each

  dsvl-tune predict --config runs/NAME/config.yaml --ckpt_path best --data.test new.jsonl
  dsvl-tune predict --config charts_lora --model.checkpoint merged --out answers.jsonl

Without --ckpt_path, model.checkpoint answers as it is. Questions need no expected answer, and with
data.test no other rows are read.
--data.eval_batch_size sets how many are answered at once, --model.max_new_tokens the length of the
longest answer. Stopped or killed, the same command resumes: answers are kept as they come."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    add_checkpoint_option(parser)
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="file of the answers (default: predictions/predict.jsonl in the run folder)",
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("predict", DESCRIPTION, arguments, add_options)

    from dsvl_tune.evaluation.answer_log import AnswerLog
    from dsvl_tune.evaluation.predictions import (
        answers_file,
        check_not_asked,
        print_answers_summary,
        write_answers,
    )
    from dsvl_tune.evaluation.scoring import score_answers
    from dsvl_tune.training.run.checks import set_up_test
    from dsvl_tune.training.run.prediction import answer_test_rows, answers_identity

    model, data = recipe.model, recipe.data
    with evaluation_run(recipe) as run:
        out = answers_file(recipe.config.out, run.folder, recipe.first_run_folder)
        set_up_test(data)
        if recipe.config.out is not None:
            check_not_asked(out, data.rows("test"))
        weights = run.checkpoint or model.base.folder
        identity = answers_identity(recipe.settings, data.rows("test"), weights)
        log = AnswerLog(out, identity, run.trainer.global_rank)
        answers = answer_test_rows(run.trainer, model, data, log, run.checkpoint)
        if run.trainer.is_global_zero:
            write_answers(out, score_answers(answers, data.metrics))
            log.remove()
            print_answers_summary(out, answers, weights)
