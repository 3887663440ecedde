"""The tokenizer of a checkpoint folder, in either layout, with every token that a prompt needs."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<｜▁pad▁｜>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
GROUNDING_TOKENS = ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>")
"""Marks of grounded questions and answers, which conversations write as text."""

ADDED = (IMAGE_TOKEN, *GROUNDING_TOKENS, USER, ASSISTANT)
"""Tokens that are added in this order where a file lacks them. Source: DeepseekVLV2Processor in
deepseek_vl2/models/processing_deepseek_vl_v2.py."""


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of tokenizer.json.

    The files declare LlamaTokenizerFast, which several transformers releases rebuild as a
    SentencePiece-style tokenizer with wrong ids; PreTrainedTokenizerFast takes tokenizer.json as it
    is. Grounding marks are part of an answer, so decoding must not drop them as it drops other
    special tokens: they are made ordinary added tokens.

    Raises:
        UserError: no tokenizer.json, or a damaged one.
    """
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder}: no tokenizer.json there. Copy the tokenizer files of the base checkpoint."
        )
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # any: the Rust library raises bare exceptions
        raise UserError(
            f"{folder}: tokenizer.json or tokenizer_config.json cannot be read "
            f"({type(error).__name__}: {error}). Copy them again."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    for token in ADDED:
        if token not in tokenizer.get_vocab():
            tokenizer.add_tokens([token], special_tokens=True)
    special = [token for token in ADDED if token not in GROUNDING_TOKENS]
    names = ("bos_token", "eos_token", "pad_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=keep_when_decoding(tokenizer.backend_tokenizer, GROUNDING_TOKENS),
        **{name: getattr(tokenizer, name) for name in names},
        additional_special_tokens=special,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
    )


def keep_when_decoding(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> Tokenizer:
    """The tokenizer with some added tokens that are not special: decoding never drops them."""
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        if token["content"] in tokens:
            token["special"] = False
    return Tokenizer.from_str(json.dumps(content))
