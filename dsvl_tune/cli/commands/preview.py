"""`dsvl-tune preview --config RECIPE`: rows as the model will see them, on one page."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.outputs import check_output_file
from dsvl_tune.recipe.command import parse_recipe

if TYPE_CHECKING:
    from PIL import Image

    from dsvl_tune.core.types import Conversation
    from dsvl_tune.data.rows import Rows

DESCRIPTION = """\
preview: an HTML page of rows as the model will see them

  dsvl-tune preview --config charts_lora
  dsvl-tune preview --config mine.yaml --rows 20 --out mine.html

For each row: its images, and what each vision tower gets of them; every token with its color
(supervised, not supervised, image), special tokens, weights, length. The page holds everything and
loads nothing. All keys of a recipe can be given, as with fit; rows come in the order in which
training begins."""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("preview", DESCRIPTION, arguments, add_options)

    from dsvl_tune.core.storage.files import atomic_write
    from dsvl_tune.data.encoding.batches import make_sample
    from dsvl_tune.report.data_preview import is_preview, preview_page

    data, options = recipe.data, recipe.config
    check_output_file(options.out, "--out", is_preview)
    data.setup("fit")
    rows = data.rows(options.split)
    if rows.num_rows == 0:
        raise UserError(f"--split {options.split}: there are no such rows. Give the recipe some.")
    keys = first_keys(data, rows, options)
    samples = [
        make_sample(rows[key], data.processor, data.max_tokens, data.on_overflow) for key in keys
    ]
    total = "a stream" if rows.num_rows is None else f"{rows.num_rows:,}"
    text = preview_page(
        samples,
        data.processor,
        f"{recipe.name}: {options.split} rows, {len(samples)} of {total}",
        originals=originals(rows[key] for key in keys),
        facts=facts(data, options.split),
        order="as trained on" if options.split == "train" else "as in the file",
    )
    atomic_write(options.out, partial(Path.write_text, data=text, encoding="utf-8"))
    print(f"page: {options.out}")


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--rows", type=int, default=10, help="rows to show")
    parser.add_argument(
        "--split", type=Literal["train", "validation"], default="train", help="which rows"
    )
    parser.add_argument("--out", type=Path, default=Path("preview.html"), help="the page")


def first_keys(data: Any, rows: Rows, options: Any) -> list[Any]:
    """The keys of the rows to show; training rows in the order of training."""
    keys: Iterable[Any] = rows.keys()
    if options.split == "train":
        keys = chain.from_iterable(data.sampler(rows))
    return list(islice(keys, options.rows))


def facts(data: Any, split: str) -> list[str]:
    """What the page says below its title: the checkpoint, and the file if the data have one."""
    file = getattr(data, split, None)
    lines = [f"Checkpoint: {data.checkpoint}"]
    return [*lines, f"File: {file}"] if isinstance(file, str) else lines


def originals(rows: Iterable[list[Conversation]]) -> dict[str, Image.Image]:
    """The images of rows by name, before padding and scaling."""
    from dsvl_tune.data.images.load import load_image

    return {
        ref.name: load_image(ref, conversation.source)
        for row in rows
        for conversation in row
        for ref in conversation.images
    }
