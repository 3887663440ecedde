"""Every key of a checkpoint's JSON files, missing or of another value: right, or one message."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.core import limits
from dsvl_tune.core.checkpoint import EMBEDDED
from dsvl_tune.core.errors import UserError
from dsvl_tune.families import open_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
SOURCES = {"transformers": EMBEDDED, "original": GOLDEN / "hybrid" / "checkpoint"}
FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
MISSING = object()
VALUES = {
    "missing": MISSING,
    "null": None,
    "text": "x",
    "nan": math.nan,
    "infinite": 1e999,
    "zero": 0,
    "negative": -1,
    "huge": 2**40,
}
NEEDED = {
    "transformers": {
        "config.json": [
            *("text_config", "vision_config", "high_res_vision_config"),
            *("vision_config.image_size",),
            *("high_res_vision_config.image_size", "image_token_id", "model_type"),
        ],
        "preprocessor_config.json": [
            *("size", "size.height", "high_res_size", "image_mean", "image_std"),
            *("high_res_image_mean", "high_res_image_std"),
        ],
        "tokenizer_config.json": ["bos_token", "eos_token"],
    },
    "original": {
        "config.json": [
            *("aligner_config", "language_config", "vision_config", "model_type"),
            *("vision_config.params", "vision_config.params.low_res_cfg"),
            *("vision_config.params.low_res_cfg.image_size",),
            *("vision_config.params.low_res_cfg.pixel_std",),
        ],
        "preprocessor_config.json": ["background_color", "image_size", "min_size"],
        "tokenizer_config.json": [],  # special_tokens_map.json names the tokens, too
    },
}
"""Keys whose every mutation is refused but those of `ACCEPTED`."""
NUMBERS = {
    "transformers": [
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
        *("max_position_embeddings", "rms_norm_eps", "intermediate_size"),
    ],
    "original": [
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
        *("max_position_embeddings", "intermediate_size"),
    ],
}
"""Keys of the language model that may be missing: transformers has a default, tensors tell."""
ACCEPTED = {
    ("image_mean", "zero"),
    ("high_res_image_mean", "zero"),
    *((token, "text") for token in ("bos_token", "eos_token")),  # "x" is a token
}


def keys(content: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in content.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from keys(value, (*above, name))


def mutate(content: dict[str, Any], key: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    place = changed
    for name in key[:-1]:
        place = place[name]
    if value is MISSING:
        del place[key[-1]]
    else:
        place[key[-1]] = value
    return changed


def opened(folder: Path) -> str:
    """What is said when a checkpoint is opened as every command opens it; "" if nothing."""
    try:
        _ = open_checkpoint(folder).processor
    except UserError as error:
        return str(error)
    return ""


def copied(layout: str, folder: Path) -> Path:
    shutil.copytree(SOURCES[layout], folder)
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("layout", SOURCES)
def test_every_key_of_a_file(layout: str, name: str, tmp_path: Path) -> None:
    """No mutation is a traceback, takes long, or is refused without its file."""
    folder = copied(layout, tmp_path / "checkpoint")
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    section = "text_config" if layout == "transformers" else "language_config"
    tried, accepted = 0, set()
    began = time.monotonic()
    for key in keys(content):
        for kind, value in VALUES.items():
            changed = mutate(content, key, value)
            if changed == content:
                continue
            (folder / name).write_text(json.dumps(changed), encoding="utf-8")
            tried += 1
            said = opened(folder)
            if not said:
                accepted.add((".".join(key), kind))
            else:
                assert str(folder) in said and len(said) < 2_000, (key, kind, said)
    for key in NEEDED[layout][name]:
        assert {kind for known, kind in accepted if known == key} <= {
            kind for known, kind in ACCEPTED if known == key
        }, key
    if name == "config.json":
        for key in NUMBERS[layout]:
            kinds = {kind for known, kind in accepted if known == f"{section}.{key}"}
            assert kinds <= {"missing"}, key
    assert tried > 60 and time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("config.json", "text_config.rms_norm_eps", math.nan, r"text_config.rms_norm_eps is nan"),
        (
            "config.json",
            "text_config.rms_norm_eps",
            0,
            "rms_norm_eps is 0; expected a number above 0",
        ),
        ("config.json", "text_config.rope_parameters.rope_theta", 0, "rope_theta is 0"),
        ("config.json", "text_config.max_position_embeddings", 0, "max_position_embeddings is 0"),
        ("config.json", "text_config.num_hidden_layers", 10**9, "num_hidden_layers is 1000000000"),
        ("config.json", "text_config.vocab_size", 100, "ids up to 452.*vocab_size 100"),
        ("config.json", "text_config.num_attention_heads", 3, "no multiple of num_key_value_heads"),
        ("config.json", "text_config.model_type", "gpt2", "model_type is 'gpt2', expected 'llama'"),
        ("config.json", "vision_config", None, "vision_config is null, expected an object"),
        ("config.json", "vision_config.image_size", 10**7, "image_size is 10000000"),
        ("config.json", "high_res_vision_config.window_size", -1, "window_size is -1"),
        ("config.json", "high_res_vision_config.global_attn_indexes", [7], "global_attn_indexes"),
        ("config.json", "model_type", ["deepseek_vl"], "model_type is .*expected a name"),
        ("config.json", "dtype", [], "does not describe a DeepSeek-VL model"),
        ("preprocessor_config.json", "image_std", [0.5, 0, 0.5], "image_std.1 is 0"),
        ("preprocessor_config.json", "image_std", 0, "image_std is 0"),
        ("preprocessor_config.json", "image_mean", [0.5, 0.5], "image_mean has 2 values"),
        ("preprocessor_config.json", "size.height", 100, "size.width is 96, expected 100"),
        ("preprocessor_config.json", "do_normalize", False, "do_normalize is false, expected true"),
        ("preprocessor_config.json", "min_size", 10_000, "min_size 10000"),
        ("tokenizer_config.json", "eos_token", None, "eos_token is None"),
        ("tokenizer_config.json", "chat_template", "{% for", "template cannot be rendered"),
    ],
)
def test_what_is_said(file: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    folder = copied("transformers", tmp_path / "checkpoint")
    if "template" in key:
        (folder / "chat_template.jinja").unlink()
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    changed = mutate(content, tuple(key.split(".")), value)
    (folder / file).write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        _ = open_checkpoint(folder).processor


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('\x1b[2J no') }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content.x.y }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 20000000000 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "Human: {{ messages[0].content }}",
    ],
)
def test_a_template_that_is_faulty_takes_long_or_is_another_models(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CPU_SECONDS", 1)
    folder = copied("transformers", tmp_path / "checkpoint")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(UserError, match="template") as raised:
        _ = open_checkpoint(folder).processor
    assert time.monotonic() - began < 15
    assert str(folder) in str(raised.value) and "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"model_type": ' + "9" * 10_000 + "}",
        '{"model_type": "\\ud800"}',
        '{"a": Infinity}',
        "[]",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_plain_object(name: str, content: str, tmp_path: Path) -> None:
    folder = copied("transformers", tmp_path / "checkpoint")
    (folder / name).write_text(content, encoding="utf-8")
    said = opened(folder)
    assert str(folder) in said or (name != "config.json" and "ud800" in content)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "other"]
)
def test_a_pipe_is_not_waited_for(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("transformers", tmp_path / "checkpoint")
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        monkeypatch.chdir(folder)  # the names of sockets are short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
    assert "neither a file nor a folder (a pipe, socket or device)" in opened(folder)
