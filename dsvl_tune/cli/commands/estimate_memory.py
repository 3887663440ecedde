"""`dsvl-tune estimate-memory --config RECIPE`: what training takes, without loading weights."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from dsvl_tune.recipe.command import parse_recipe

DESCRIPTION = """\
estimate-memory: what training takes, part by part, on 1, 2, 4 and 8 GPUs, without loading weights

  dsvl-tune estimate-memory --config mine.yaml
  dsvl-tune estimate-memory --config mine.yaml --tokens 900 --supervised 120

Of the checkpoint only config.json and the headers of its files are read (of a hub name too).
Activations are those of the step itself, run on tensors without storage. By default each row is as
long as data.max_tokens (or the checkpoint's context) allows, and all of it but images is
supervised: the maximum. `dsvl-tune check-data` shows how long yours are. Not counted: CUDA's own
half gigabyte, unused blocks of its allocator, generation of answers. All keys of a recipe can be
given, as with fit."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--tokens",
        type=int | None,
        default=None,
        help="tokens of a row, those of its images included (default: the most allowed)",
    )
    parser.add_argument("--images", type=int, default=1, help="images of a row, all different")
    parser.add_argument(
        "--supervised",
        type=int | None,
        default=None,
        help="supervised tokens of a row (default: all but images')",
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("estimate-memory", DESCRIPTION, arguments, add_options)

    from dsvl_tune.cli.memory_report import memory_report

    print(memory_report(recipe.config))
