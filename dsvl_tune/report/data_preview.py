"""Rows as a page: the pixels that the model gets and its tokens, coloured by what is supervised."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from dsvl_tune.core.types import IGNORE_INDEX, Branch, Pixels, Processor, Sample

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
section { border-top: 2px solid #ccc; margin-top: 2em; padding-top: .5em }
h2 { font-size: 1.05em; margin: .3em 0; overflow-wrap: anywhere }
.facts { color: #555; margin: .2em 0 .8em }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top }
figure img { max-width: 24em; max-height: 24em; border: 1px solid #999; image-rendering: pixelated; display: block }
figcaption { color: #555; font-size: .85em }
.tokens { font-family: ui-monospace, monospace; font-size: 13px; line-height: 2; overflow-wrap: anywhere }
.tokens span { border-radius: 3px; padding: 2px 1px; margin-right: 1px; white-space: pre-wrap }
.plain { background: #ececec }
.supervised { background: #bfe8bf }
.image { background: #bcd8f7; padding: 2px 6px }
.special { white-space: nowrap !important; outline: 1px solid #8a2be2; color: #6a1bb2 }
.branch { display: block; margin: .7em 0 .2em; color: #8a5a00; font-weight: bold }
sub { color: #00661f }
"""

MORE = "◦"
"""Stands for a token that goes on with the character before it."""
MOST_PIECES = 8
"""Tokens tried together: a character has up to four bytes, and a token may hold the end of one and the next."""
KEY = (
    '<span class="supervised">supervised</span> <span class="plain">not supervised</span> <span class="image">image</span> '
    '<span class="plain special">special token</span>'
)


def page(samples: Sequence[Sample], processor: Processor, title: str) -> str:
    """One HTML page that needs nothing else: pictures are inside, and it may load nothing.

    Args:
        samples: rows as they are trained on, message trees included.
        processor: of the checkpoint.
        title: what was previewed.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="tokens">{KEY}</p><p class="facts">A space is shown as ·, a line break as ↵. A character that takes '
        f"several tokens is shown at the first, the others as {MORE}. Hold the pointer over a token for its id, "
        "position, branch and weight; a weight other than 1 stands below the token.</p>"
        + "".join(
            section(sample, processor, number) for number, sample in enumerate(samples, start=1)
        )
        + "</body></html>\n"
    )


def section(sample: Sample, processor: Processor, number: int) -> str:
    """One row."""
    supervised = [weight for weight in sample.loss_weights if weight > 0]
    weights = ", ".join(f"{weight:g}" for weight in sorted(set(supervised)))
    facts = (
        f"{len(sample.input_ids):,} of {processor.context_tokens:,} tokens; {len(supervised):,} supervised, weight {weights}; "
        f"{len(sample.images)} image(s) of {processor.image_tokens} tokens; {len(sample.sources)} conversation(s)"
    )
    pictures = "".join(
        figures(image, processor, place)
        for place, image in enumerate(sample.images, start=1)
        if isinstance(image, Pixels)
    )
    return (
        f'<section id="row{number}"><h2>{escape("; ".join(sample.sources))}</h2><p class="facts">{facts}</p>{pictures}'
        f'<div class="tokens">{"".join(spans(sample, processor))}</div></section>'
    )


def figures(pixels: Pixels, processor: Processor, place: int) -> str:
    """Both branches of an image as the vision towers get them, normalisation undone."""
    rule = processor.image_rule
    shown = [("SigLIP", pixels.low, rule.low)]
    if pixels.high is not None and rule.high is not None:
        shown.insert(0, ("SAM", pixels.high, rule.high))
    return "".join(
        f'<figure><img alt="image {place}" src="{data_url(tensor, branch)}"><figcaption>image {place}, {name}, '
        f"{branch.size} x {branch.size}: {escape(pixels.name.rpartition('/')[2][:60])}</figcaption></figure>"
        for name, tensor, branch in shown
    )


def data_url(tensor: Tensor, branch: Branch) -> str:
    """[3, S, S] normalised -> a PNG inside an URL."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (branch.mean, branch.std))
    levels = ((tensor * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    buffer = BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def spans(sample: Sample, processor: Processor) -> Iterator[str]:
    """One element a token; an image's tokens as one."""
    branch, shown = 0, 0
    texts = token_texts(sample, processor)
    for i, token in enumerate(sample.input_ids):
        if sample.branches[i] != branch:
            branch = sample.branches[i]
            yield f'<span class="branch">branch {branch}, continues the shared beginning</span>'
        if token != processor.image_token_id:
            yield token_span(sample, i, texts[i], processor)
            continue
        if shown % processor.image_tokens == 0:
            last = sample.position_ids[i] + processor.image_tokens - 1
            title = f"positions {sample.position_ids[i]} to {last}, branch {branch}"
            name = f"image {shown // processor.image_tokens + 1}: {processor.image_tokens} tokens"
            yield f'<span class="image" title="{title}">{name}</span>'
        shown += 1


def token_texts(sample: Sample, processor: Processor) -> list[str]:
    """What each token is shown as. Tokens that are pieces of one character are decoded together."""
    ids, tokenizer = sample.input_ids, processor.tokenizer
    texts: list[str] = []
    while (start := len(texts)) < len(ids):
        for stop in range(start + 1, min(start + MOST_PIECES, len(ids)) + 1):
            if sample.branches[stop - 1] != sample.branches[start]:
                break
            text = tokenizer.decode(ids[start:stop])
            if "\ufffd" not in text:
                break
        if "\ufffd" in text:  # no character comes of it
            text, stop = tokenizer.convert_ids_to_tokens(ids[start]), start + 1
        texts += [text] + [MORE] * (stop - start - 1)
    return texts


def token_span(sample: Sample, index: int, text: str, processor: Processor) -> str:
    """One token of text."""
    token, weight = sample.input_ids[index], sample.loss_weights[index]
    supervised = sample.labels[index] != IGNORE_INDEX
    special = " special" if token in processor.tokenizer.all_special_ids else ""
    title = f"id {token}, position {sample.position_ids[index]}, branch {sample.branches[index]}, weight {weight:g}"
    note = f"<sub>{weight:g}</sub>" if supervised and weight != 1 else ""
    shown = escape(text).replace(" ", "·").replace("\n", "↵\n").replace("\t", "→")
    return f'<span class="{"supervised" if supervised else "plain"}{special}" title="{title}">{shown}{note}</span>'
