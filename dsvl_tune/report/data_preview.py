"""Rows as a page: what the vision side gets, and the tokens, colored by what is supervised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import median

import torch
from PIL import Image
from torch import Tensor

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Sample, VisionInput
from dsvl_tune.report import pages

GENERATOR = "dsvl-tune preview"
"""Marks a page as one of ours, which may be replaced."""
is_preview = partial(pages.is_page, generator=GENERATOR)
ORIGINAL_SIDE = 1024
"""Longest side in px of an image before it is padded and scaled."""
MORE = "◦"
"""Shown for a token that continues the character of the token before it."""
MOST_PIECES = 8
"""Tokens that are decoded together: a character has up to four bytes, and a token may hold the end
of one character and the beginning of the next."""
NOTE = (
    "A space is shown as ·, a line break as ↵. A character that takes several tokens is shown at "
    f"the first, the others as {MORE}. A weight other than 1 is shown below its token. Click an "
    "image to enlarge it."
)


@dataclass(frozen=True)
class Span:
    """One element of a row's tokens.

    Attributes:
        css: Its classes.
        text: What it shows.
        title: Its details.
        weight: Loss weight to show below it; "" for none.
    """

    css: str
    text: str
    title: str = ""
    weight: str = ""


@dataclass(frozen=True)
class Figure:
    """An image, or what one vision tower gets of it.

    Attributes:
        url: URL that holds the image.
        alt: Its short name.
        caption: Shown below it.
        columns: Of the grid of tiles that it belongs to; 0 for what is no tile.
    """

    url: str
    alt: str
    caption: str
    columns: int = 0


def preview_page(
    samples: Sequence[Sample],
    processor: Processor,
    title: str,
    *,
    originals: Mapping[str, Image.Image] | None = None,
    facts: Sequence[str] = (),
    order: str = "as given",
) -> str:
    """Show rows on one page.

    Args:
        samples: Rows as they are trained on, message trees included.
        processor: Of the checkpoint.
        title: What was previewed.
        originals: Images as they were before padding and scaling, by name; shown next to those.
        facts: Lines below the title, e.g. the recipe and the checkpoint.
        order: Name of the order of `samples`.
    """
    rows = [
        {
            "source": "; ".join(dict.fromkeys(sample.sources)),
            "tokens": len(sample.input_ids),
            "facts": row_facts(sample, processor),
            "figures": [
                (columns, list(group))
                for columns, group in groupby(
                    figures(sample, processor, originals or {}), key=lambda figure: figure.columns
                )
            ],
            "spans": list(spans(sample, processor)),
        }
        for sample in samples
    ]
    return pages.render(
        "data_preview.html",
        generator=GENERATOR,
        title=title,
        summary=[*facts, *length_facts(samples)],
        note=NOTE,
        order=order,
        rows=rows,
    )


def length_facts(samples: Sequence[Sample]) -> list[str]:
    """The lengths of all rows of the page in one line; [] without rows.

    Args:
        samples: The rows.
    """
    if not samples:
        return []
    lengths = sorted(len(sample.input_ids) for sample in samples)
    supervised = sum(weight > 0 for sample in samples for weight in sample.loss_weights)
    images = sum(len(sample.images) for sample in samples)
    return [
        f"{len(samples):,} rows with {images:,} images; {lengths[0]:,} to {lengths[-1]:,} tokens, "
        f"median {median(lengths):,.0f}; {100 * supervised / sum(lengths):.1f} % of all tokens are "
        "supervised"
    ]


def row_facts(sample: Sample, processor: Processor) -> str:
    """The row in numbers.

    Args:
        sample: The row.
        processor: Of the checkpoint.
    """
    supervised = [weight for weight in sample.loss_weights if weight > 0]
    weights = ", ".join(f"{weight:g}" for weight in sorted(set(supervised)))
    image_tokens = sum(stop - start for start, stop in sample.image_spans)
    return (
        f"{len(sample.input_ids):,} of {processor.context_tokens:,} tokens; "
        f"{len(supervised):,} supervised, weight {weights}; "
        f"{len(sample.images)} image(s), {image_tokens:,} tokens; "
        f"{len(sample.sources)} conversation(s)"
    )


def figures(
    sample: Sample, processor: Processor, originals: Mapping[str, Image.Image]
) -> Iterator[Figure]:
    """Show each image of a row: the original, then what each tower gets, every crop on its own.

    Args:
        sample: The row.
        processor: Of the checkpoint.
        originals: Images before padding and scaling, by name.
    """
    family = processor.family
    for place, image in enumerate(sample.images, start=1):
        if not isinstance(image, VisionInput):
            continue
        alt, name = f"image {place}", image.name.rpartition("/")[2][:60]
        if image.name in originals:
            original = originals[image.name]
            caption = f"{alt}, original, {original.width} x {original.height}: {name}"
            yield Figure(pages.picture_url(original, ORIGINAL_SIDE), alt, caption)
        levels = family.gray_levels(family.normalize(image.tensors, processor), processor)
        wide, high = family.tile_grid(processor, image.tokens)
        for tower, (whole, *tiles) in levels.items():
            yield Figure(crop_url(whole), alt, f"{alt}, {tower}, {sides(whole)}")
            for number, tile in enumerate(tiles):
                row, column = divmod(number, wide)
                where = f"tile {number + 1} of {wide} x {high}: row {row + 1}, column {column + 1}"
                yield Figure(crop_url(tile), alt, f"{where}, {sides(tile)}", columns=wide)


def sides(levels: Tensor) -> str:
    """Width and height of a crop [3, height, width] in px."""
    return f"{levels.shape[2]} x {levels.shape[1]}"


def crop_url(levels: Tensor) -> str:
    """Put gray levels into a URL, as PNG.

    Args:
        levels: [3, S, S] float32 in 0..255.
    """
    pixels = levels.round().clamp(0, 255).to(torch.uint8)
    return pages.picture_url(Image.fromarray(pixels.permute(1, 2, 0).numpy()))


def spans(sample: Sample, processor: Processor) -> Iterator[Span]:
    """Yield one element for each token, and one for all tokens of an image.

    Args:
        sample: The row.
        processor: Of the checkpoint.
    """
    texts = token_texts(sample, processor)
    images = iter(enumerate(sample.image_spans, start=1))
    image, (start, stop) = next(images, (0, (-1, -1)))
    branch = 0
    for index in range(len(sample.input_ids)):
        if sample.branch_ids[index] != branch:
            branch = sample.branch_ids[index]
            yield Span("branch", f"branch {branch}, continues the shared beginning")
        if not start <= index < stop:
            yield token_span(sample, index, texts[index], processor)
        if index == start:
            positions = f"{sample.position_ids[start]} to {sample.position_ids[stop - 1]}"
            title = f"positions {positions}, branch {branch}"
            label = processor.family.tiles_label(processor, stop - start)
            text = f"image {image}: {stop - start} tokens" + (f", {label}" if label else "")
            yield Span("image", text, title)
        if index == stop - 1:
            image, (start, stop) = next(images, (0, (-1, -1)))


def token_texts(sample: Sample, processor: Processor) -> list[str]:
    """What each token is shown as; tokens that are pieces of one character are decoded together.

    Args:
        sample: The row.
        processor: Of the checkpoint.
    """
    ids, tokenizer = sample.input_ids, processor.tokenizer
    texts: list[str] = []
    while (start := len(texts)) < len(ids):
        for stop in range(start + 1, min(start + MOST_PIECES, len(ids)) + 1):
            if sample.branch_ids[stop - 1] != sample.branch_ids[start]:
                break
            text = tokenizer.decode(ids[start:stop])
            if "\ufffd" not in text:
                break
        if "\ufffd" in text:  # the bytes are no character
            text, stop = tokenizer.convert_ids_to_tokens(ids[start]), start + 1
        texts += [text] + [MORE] * (stop - start - 1)
    return texts


def token_span(sample: Sample, index: int, text: str, processor: Processor) -> Span:
    """One token of text.

    Args:
        sample: The row.
        index: Of the token.
        text: What it is shown as.
        processor: Of the checkpoint.
    """
    token, weight = sample.input_ids[index], sample.loss_weights[index]
    supervised = sample.labels[index] != IGNORE_INDEX
    css = "supervised" if supervised else "plain"
    if token in processor.tokenizer.all_special_ids:
        css += " special"
    title = (
        f"id {token}, position {sample.position_ids[index]}, "
        f"branch {sample.branch_ids[index]}, weight {weight:g}"
    )
    shown = text.replace(" ", "·").replace("\n", "↵\n").replace("\t", "→")
    return Span(css, shown, title, f"{weight:g}" if supervised and weight != 1 else "")
