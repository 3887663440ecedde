"""Configuration and tokenizer of a written checkpoint, for releases 4 and 5 of transformers.

Each difference below was silent or total when it was left out: tests/interop runs both releases.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.storage.files import write_json


def write_config(config: PretrainedConfig, target: Path) -> None:
    """Write config.json.

    Args:
        config: with a text section.
        target: folder to write to.
    """
    config.save_pretrained(target)
    settings = read_json(target / "config.json")
    settings["text_config"] |= rotary_settings(settings["text_config"]["rope_parameters"])
    write_json(target / "config.json", settings)


def rotary_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of rotary positions that transformers 4 reads.

    Without them it takes a base of 10,000 and no scaling, whatever the model was trained with.

    Args:
        parameters: `rope_parameters` of the text section.
    """
    settings: dict[str, Any] = {"rope_theta": parameters["rope_theta"]}
    if parameters["rope_type"] != "default":
        settings["rope_scaling"] = dict(parameters)
    return settings


def write_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    *,
    template: str,
    named_tokens: Mapping[str, str],
    processor_class: str,
) -> None:
    """Write the tokenizer and its chat template.

    Args:
        tokenizer: of the base; not changed.
        target: folder to write to.
        template: chat template.
        named_tokens: special tokens by the names that transformers' processor class asks for.
        processor_class: its name.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(target)
    settings = read_json(target / "tokenizer_config.json")
    # transformers 4 takes these as a dictionary only, and the others under another key.
    settings["extra_special_tokens"] = dict(named_tokens)
    others = set(tokenizer.extra_special_tokens) - set(named_tokens.values())
    if others:
        settings["additional_special_tokens"] = sorted(others)
    settings |= {
        "processor_class": processor_class,
        # transformers 4 knows this name of the class.
        "tokenizer_class": "PreTrainedTokenizerFast",
        # It would also make token types, which `generate` refuses.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    write_json(target / "tokenizer_config.json", settings)
