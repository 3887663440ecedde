"""The tokenizer of a checkpoint folder, in either layout."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.deepseek_vl import tokenizer as deepseek_vl
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

BEGIN_OF_IMAGE, END_OF_IMAGE = "<begin_of_image>", "<end_of_image>"
PAD = "<｜▁pad▁｜>"


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer, with the marks around an image as special tokens.

    The original takes the ids of these and of the pad token from the vocabulary by their strings,
    whatever the files declare; they differ between the published sizes
    (janus/models/processing_vlm.py, VLChatProcessor).

    Raises:
        UserError: its files are missing or damaged, or it lacks a mark.
    """
    tokenizer = deepseek_vl.read_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    if missing := [mark for mark in (BEGIN_OF_IMAGE, END_OF_IMAGE) if mark not in vocabulary]:
        raise UserError(
            f"{folder}: the tokenizer has no {missing[0]}, which Janus puts around an image. Copy "
            "the tokenizer files of the base checkpoint."
        )
    special = tokenizer.all_special_tokens
    further = [mark for mark in (IMAGE_TOKEN, BEGIN_OF_IMAGE, END_OF_IMAGE) if mark not in special]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": further}, replace_extra_special_tokens=False
    )
    if PAD in vocabulary:
        tokenizer.pad_token = PAD
    return tokenizer
