"""Rows as a page: what the vision side gets, and the tokens, colored by what is supervised."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dsvl_tune.core.types import IGNORE_INDEX, Processor, Sample, VisionInput

STYLE = """
body {
  font: 15px/1.5 system-ui, sans-serif;
  margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222;
}
section { border-top: 2px solid #ccc; margin-top: 2em; padding-top: .5em }
h2 { font-size: 1.05em; margin: .3em 0; overflow-wrap: anywhere }
.facts { color: #555; margin: .2em 0 .8em }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top }
figure img {
  max-width: 24em; max-height: 24em; border: 1px solid #999;
  image-rendering: pixelated; display: block;
}
figcaption { color: #555; font-size: .85em }
.tokens {
  font-family: ui-monospace, monospace;
  font-size: 13px; line-height: 2; overflow-wrap: anywhere;
}
.tokens span { border-radius: 3px; padding: 2px 1px; margin-right: 1px; white-space: pre-wrap }
.plain { background: #ececec }
.supervised { background: #bfe8bf }
.image { background: #bcd8f7; padding: 2px 6px }
.special { white-space: nowrap !important; outline: 1px solid #8a2be2; color: #6a1bb2 }
.branch { display: block; margin: .7em 0 .2em; color: #8a5a00; font-weight: bold }
sub { color: #00661f }
"""

GENERATOR = "dsvl-tune preview"
"""Marks a page as one of ours, which may be replaced."""
MORE = "◦"
"""Shown for a token that continues the character of the token before it."""
MOST_PIECES = 8
"""Tokens that are decoded together: a character has up to four bytes, and a token may hold the end
of one character and the beginning of the next."""
KEY = (
    '<span class="supervised">supervised</span> <span class="plain">not supervised</span> '
    '<span class="image">image</span> <span class="plain special">special token</span>'
)
NOTE = (
    "A space is shown as ·, a line break as ↵. A character that takes several tokens is shown at "
    f"the first, the others as {MORE}. Hold the pointer over a token for its id, position, branch "
    "and weight; a weight other than 1 is shown below the token."
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def is_page(path: Path) -> bool:
    """Whether a file is a page that `page` made."""
    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(1000)


def page(samples: Sequence[Sample], processor: Processor, title: str) -> str:
    """One HTML page that needs nothing else: images are inside, and it may load nothing.

    Args:
        samples: rows as they are trained on, message trees included.
        processor: of the checkpoint.
        title: what was previewed.
    """
    sections = [section(sample, processor, row) for row, sample in enumerate(samples, start=1)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{GENERATOR}">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f'<body><h1>{escape(title)}</h1><p class="tokens">{KEY}</p><p class="facts">{NOTE}</p>'
        + "".join(sections)
        + "</body></html>\n"
    )


def section(sample: Sample, processor: Processor, number: int) -> str:
    """One row: source, facts, images, tokens."""
    pictures = "".join(
        figures(image, processor, place)
        for place, image in enumerate(sample.images, start=1)
        if isinstance(image, VisionInput)
    )
    return (
        f'<section id="row{number}"><h2>{escape("; ".join(sample.sources))}</h2>'
        f'<p class="facts">{facts(sample, processor)}</p>{pictures}'
        f'<div class="tokens">{"".join(spans(sample, processor))}</div></section>'
    )


def facts(sample: Sample, processor: Processor) -> str:
    """The row in numbers."""
    supervised = [weight for weight in sample.loss_weights if weight > 0]
    weights = ", ".join(f"{weight:g}" for weight in sorted(set(supervised)))
    image_tokens = sum(stop - start for start, stop in sample.image_spans)
    return (
        f"{len(sample.input_ids):,} of {processor.context_tokens:,} tokens; "
        f"{len(supervised):,} supervised, weight {weights}; "
        f"{len(sample.images)} image(s), {image_tokens:,} tokens; "
        f"{len(sample.sources)} conversation(s)"
    )


def figures(image: VisionInput, processor: Processor, place: int) -> str:
    """An image as each vision tower gets it, normalization undone; every crop on its own."""
    family = processor.family
    levels = family.gray_levels(family.normalize(image.tensors, processor), processor)
    name = escape(image.name.rpartition("/")[2][:60])
    elements = []
    for tower, crops in levels.items():
        for crop in crops:
            height, width = crop.shape[1:]
            caption = f"image {place}, {tower}, {width} x {height}: {name}"
            elements.append(
                f'<figure><img alt="image {place}" src="{data_url(crop)}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return "".join(elements)


def data_url(levels: Tensor) -> str:
    """Levels [3, S, S], any dtype, in 0..255, as a PNG inside a URL."""
    pixels = levels.round().clamp(0, 255).to(torch.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def spans(sample: Sample, processor: Processor) -> Iterator[str]:
    """One element for each token, and one for all tokens of an image."""
    texts = token_texts(sample, processor)
    images = iter(enumerate(sample.image_spans, start=1))
    image, (start, stop) = next(images, (0, (-1, -1)))
    branch = 0
    for index in range(len(sample.input_ids)):
        if sample.branch_ids[index] != branch:
            branch = sample.branch_ids[index]
            yield (f'<span class="branch">branch {branch}, continues the shared beginning</span>')
        if not start <= index < stop:
            yield token_span(sample, index, texts[index], processor)
        if index == start:
            positions = f"{sample.position_ids[start]} to {sample.position_ids[stop - 1]}"
            yield (
                f'<span class="image" title="positions {positions}, branch {branch}">'
                f"image {image}: {stop - start} tokens</span>"
            )
        if index == stop - 1:
            image, (start, stop) = next(images, (0, (-1, -1)))


def token_texts(sample: Sample, processor: Processor) -> list[str]:
    """What each token is shown as; tokens that are pieces of one character are decoded together."""
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


def token_span(sample: Sample, index: int, text: str, processor: Processor) -> str:
    """One token of text."""
    token, weight = sample.input_ids[index], sample.loss_weights[index]
    supervised = sample.labels[index] != IGNORE_INDEX
    classes = "supervised" if supervised else "plain"
    if token in processor.tokenizer.all_special_ids:
        classes += " special"
    title = (
        f"id {token}, position {sample.position_ids[index]}, "
        f"branch {sample.branch_ids[index]}, weight {weight:g}"
    )
    note = f"<sub>{weight:g}</sub>" if supervised and weight != 1 else ""
    shown = escape(text).replace(" ", "·").replace("\n", "↵\n").replace("\t", "→")
    return f'<span class="{classes}" title="{title}">{shown}{note}</span>'
