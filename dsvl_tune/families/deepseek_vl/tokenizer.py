"""The tokenizer of a checkpoint folder, in either layout."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.errors import UserError

IMAGE_TOKEN = "<image_placeholder>"


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of tokenizer.json, with the image token.

    The files declare LlamaTokenizerFast, which several transformers releases rebuild as a
    SentencePiece-style tokenizer with wrong ids; PreTrainedTokenizerFast takes tokenizer.json as it
    is. The published SigLIP-only tokenizer may lack the image token: it is then added, as the
    original processor does.

    Raises:
        UserError: no tokenizer.json, or a damaged one.
    """
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder}: no tokenizer.json there. Copy the tokenizer files of the base checkpoint."
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_json(folder / name)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except BaseException as error:  # any: the Rust library raises bare exceptions, and panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{folder}: tokenizer.json or tokenizer_config.json cannot be read "
            f"({type(error).__name__}: {error}). Copy them again."
        ) from error
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return tokenizer
