"""The chat template of an export renders the golden prompts, by transformers' own renderer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.processor import ORIGINAL_SYSTEM_PROMPT

FOLDER = Path(__file__).parents[1] / "golden" / "hybrid"
CASES = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))["cases"]


def as_messages(case: dict[str, Any], parts: bool) -> list[dict[str, Any]]:
    """The case in OpenAI's form, with contents as strings or as lists of parts."""
    messages = []
    if case["system"]["kind"] != "default":
        messages.append({"role": "system", "content": case["system"]["text"]})
    for message in case["messages"]:
        content: Any = message["content"]
        if parts:
            texts = content.strip().split("<image_placeholder>")
            content = [{"type": "text", "text": texts[0]}]
            for text in texts[1:]:
                content += [{"type": "image"}, {"type": "text", "text": text}]
        messages.append({"role": message["role"].lower(), "content": content})
    return messages[: -1 if case["form"] == "generation" else None]


@pytest.mark.parametrize("parts", [False, True], ids=["strings", "parts"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_golden_prompts(case: dict[str, Any], parts: bool) -> None:
    tokenizer = open_checkpoint(FOLDER / "checkpoint").tokenizer
    tokenizer.chat_template = chat_template(ORIGINAL_SYSTEM_PROMPT)
    generation = case["form"] == "generation"
    messages = as_messages(case, parts)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    assert text == tokenizer.bos_token + case["prompt"]
    if generation:
        return
    encoded = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded["input_ids"] == case["input_ids"]
    supervised = {position for start, end in case["supervised"] for position in range(start, end)}
    assert {
        position for position, mask in enumerate(encoded["assistant_masks"]) if mask
    } == supervised
