"""Checkpoints load whole, untied and with the right ids, or not at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsvl_tune.core.checkpoint import resolve_checkpoint
from dsvl_tune.core.errors import UserError
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.processor import ORIGINAL_SYSTEM_PROMPT
from dsvl_tune.models.checkpoint.load import create_model

GOLDEN = Path(__file__).parents[2] / "golden"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


@pytest.fixture
def copy(hybrid_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hybrid_checkpoint, tmp_path / "copy"))


def test_a_missing_tie_flag_does_not_tie(copy: Path, hybrid_checkpoint: Path) -> None:
    """The trap: transformers' default is tied, every published DeepSeek-VL is not."""
    config = json.loads((copy / "config.json").read_text())
    del config["tie_word_embeddings"]
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = create_model(open_checkpoint(copy))
    stored = load_file(copy / "model.safetensors")
    assert model.config.tie_word_embeddings is False
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"])
    assert torch.equal(
        model.get_input_embeddings().weight, stored["model.language_model.embed_tokens.weight"]
    )
    assert not torch.equal(
        stored["lm_head.weight"], stored["model.language_model.embed_tokens.weight"]
    )


@pytest.mark.parametrize("fault", ["missing", "not expected", "expected [48, 48]"])
def test_weights_that_do_not_fit_are_refused(copy: Path, fault: str) -> None:
    """The trap: transformers fills what is missing with random numbers and only warns."""
    tensors = load_file(copy / "model.safetensors")
    name = "model.aligner.proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "not expected":
        tensors["model.extra.weight"] = torch.ones(2)
    else:
        tensors[name] = torch.ones(3, 3)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=re.escape(fault)):
        create_model(open_checkpoint(copy))


def test_special_ids_come_from_the_tokenizer(copy: Path) -> None:
    model = create_model(open_checkpoint(copy))
    text = model.config.text_config
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (480, 481, 481)


def test_the_tokenizer_class_that_the_files_declare_is_not_used() -> None:
    """The trap: LlamaTokenizerFast is declared, and gives other ids than tokenizer.json holds."""
    cases = json.loads((GOLDEN / "siglip" / "conversations.json").read_text(encoding="utf-8"))[
        "cases"
    ]
    tokenizer = open_checkpoint(GOLDEN / "siglip" / "checkpoint").tokenizer
    assert tokenizer.convert_tokens_to_ids("<image_placeholder>") == 486
    assert all(tokenizer(case["prompt"])["input_ids"] == case["input_ids"] for case in cases)


def test_system_prompt_comes_from_the_chat_template(copy: Path) -> None:
    assert open_checkpoint(copy).processor.default_system == ORIGINAL_SYSTEM_PROMPT
    template = "{{ bos_token }}Be brief.\n\n{% for m in messages %}User: {% endfor %}"
    (copy / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert open_checkpoint(copy).processor.default_system == "Be brief."


def test_an_image_id_that_the_tokenizer_does_not_have_is_refused(copy: Path) -> None:
    edit_config(copy, image_token_id=100015)
    with pytest.raises(UserError, match="image_token_id 100015"):
        _ = open_checkpoint(copy).processor


def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_network() -> None:
    for name in ("/no/such/folder", "./none", "a/b/c"):
        with pytest.raises(UserError, match="no such folder"):
            resolve_checkpoint(name)
