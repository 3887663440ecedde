"""`dsvl-tune sweep --config RECIPE --over KEY=VALUES`: the same recipe with several values."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
sweep: train by the same recipe with several values of some keys, and compare

  dsvl-tune sweep --config charts_lora --over model.lr=5e-4,1e-3,2e-3
  dsvl-tune sweep --config charts_lora --over model.lr=1e-4..1e-2:log \\
      --over model.parts.language_model.rank=8,16,32 --trials 12

KEY=A,B,C lists values, KEY=LOW..HIGH is a range, with :log one of factors. --over FILE reads the
same from YAML (KEY: [A, B, C] or KEY: LOW..HIGH:log). Without --trials every combination of listed
values is tried; with it, that many, chosen by Optuna's TPE from the figures of those before.

Each trial is a run in a process of its own, in the folder of the sweep (runs/NAME_sweep, by the
--run_name of the recipe). Trials are compared by the best value of --monitor among their
validations; after a third of its steps, one that is worse than the median of the others is pruned.
Keys, values and rows are checked before the first trial starts.

Stop with Ctrl-C and run the same command again to resume, also after a kill. A higher --trials
adds trials to a finished sweep. Needs Optuna: pip install 'dsvl-tune[sweep]'."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="what to try: KEY=A,B,C or KEY=LOW..HIGH[:log], or a YAML file; may be repeated",
    )
    parser.add_argument(
        "--trials",
        type=int | None,
        default=None,
        help="number of trials (default: every combination of listed values)",
    )
    parser.add_argument(
        "--prune",
        type=bool,
        default=True,
        help="whether to stop trials early that are worse than the median",
    )


def main(arguments: list[str]) -> None:
    """Entry of the command; `sweep trial FOLDER NUMBER` runs one trial, in its own process."""
    if arguments[:1] == ["trial"] and len(arguments) == 3:
        from dsvl_tune.sweep.trial import run_trial

        sys.exit(run_trial(Path(arguments[1]), int(arguments[2])))
    recipe = parse_recipe("sweep", DESCRIPTION, arguments, add_options)

    from dsvl_tune.sweep.definition import write_definition
    from dsvl_tune.sweep.plan import define_sweep, plan_text
    from dsvl_tune.sweep.recipes import TrialRecipes, check_recipes
    from dsvl_tune.sweep.record import report_sweep
    from dsvl_tune.sweep.run_sweep import run_sweep, start_process
    from dsvl_tune.sweep.study import import_optuna, repair_journal
    from dsvl_tune.training.run.lock import lock_run

    import_optuna()
    options = recipe.config
    sweep = define_sweep(recipe, options.over, trials=options.trials, prune=options.prune)
    recipes = TrialRecipes(recipe, arguments)
    print(plan_text(sweep, check_recipes(recipes, sweep)), flush=True)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with lock_run(sweep.folder):
        repair_journal(sweep.folder)
        write_definition(sweep)
        code = run_sweep(sweep, recipes, start_process, options.time_limit_s)
        if code:
            print(f"\nsweep stopped; run the same command again to resume\nsweep: {sweep.folder}")
            sys.exit(code)
        page = report_sweep(sweep.folder)
    print(f"report: {page}")
