"""A base checkpoint is read once a process, and read again when its files change."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

import dsvl_tune
from dsvl_tune.core.checkpoint import weight_headers
from dsvl_tune.core.checkpoint.checksums import write_sums
from dsvl_tune.core.checkpoint.hub import is_hub_name
from dsvl_tune.core.errors import UserError
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.families import open_checkpoint, open_sizes
from dsvl_tune.training.module import FinetuneModule

OPENED: list[str] | None = None
"""Files that Python has opened since a test began to count; None while none does."""


def record_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(str(arguments[0]))


sys.addaudithook(record_opened)


@pytest.fixture
def copy(hybrid_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hybrid_checkpoint, tmp_path / "copy"))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of the files that Python opens during the test."""
    global OPENED
    OPENED = found = list[str]()
    yield found
    OPENED = None


def counted(calls: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its calls counted."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("with_sums", [True, False])
def test_a_fit_reads_its_checkpoint_once(
    copy: Path,
    opened: list[str],
    with_sums: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if with_sums:
        write_sums(copy)
    listed = [path.name for path in copy.iterdir() if path.name != "SHA256SUMS"]
    calls: Counter[str] = Counter()
    from_pretrained = PreTrainedTokenizerFast.from_pretrained
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "from_pretrained", counted(calls, "tokenizer", from_pretrained)
    )
    monkeypatch.setattr(
        weight_headers, "read_header", counted(calls, "headers", weight_headers.read_header)
    )
    opened.clear()
    run = dsvl_tune.fit(
        FinetuneModule(str(copy), max_new_tokens=2),
        ChartsDataModule(
            checkpoint=str(copy),
            train_charts=4,
            validation_charts=1,
            test_charts=1,
            retention_scenes=0,
            questions=2,
            batch_size=2,
            system_prompt="",
        ),
        run_dir=tmp_path / "runs",
        max_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    times = Counter(Path(path).name for path in opened if Path(path).parent == copy)
    assert run.finished
    assert calls == {"tokenizer": 1, "headers": 1}
    assert times["model.safetensors"] == 1  # for the hash, which the manifest records
    assert times["SHA256SUMS"] == (1 if with_sums else 0)
    hashed = 1 if with_sums else 0
    assert times["config.json"] == 1 + hashed
    if with_sums:
        assert {name for name in listed if not times[name]} == set()
    manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["checkpoint"]["sha256"]) == ["model.safetensors"]


def test_an_opened_checkpoint_is_shared_until_a_file_changes(copy: Path) -> None:
    first = open_checkpoint(copy)
    assert open_checkpoint(str(copy)) is first
    assert first.config.tie_word_embeddings is False
    settings = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    settings["text_config"]["max_position_embeddings"] = 99
    (copy / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert open_checkpoint(copy).processor.context_tokens == 99
    assert first.processor.context_tokens == 512


def test_building_a_model_leaves_the_shared_config_as_it_is(hybrid_checkpoint: Path) -> None:
    """The trap: transformers writes into the config that a model is built from."""
    module = FinetuneModule(str(hybrid_checkpoint))
    before = module.base.config.to_dict()
    module.configure_model()
    module.network.config.text_config.use_cache = False
    assert module.base.config.to_dict() == before


def test_the_constructor_opens_nothing() -> None:
    module = FinetuneModule("/no/such/folder", preset="lora")
    with pytest.raises(UserError, match="no such folder"):
        module.check_arguments()


def test_a_hash_is_computed_again_when_its_file_changes(copy: Path) -> None:
    checkpoint = open_checkpoint(copy)
    before = checkpoint.weight_hashes
    assert checkpoint.weight_hashes == before
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert checkpoint.weight_hashes != before


def test_the_sizes_are_those_of_the_opened_checkpoint(copy: Path) -> None:
    """Also where a flag is tied but the files hold a head of their own."""
    settings = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(
        json.dumps(settings | {"tie_word_embeddings": True}), encoding="utf-8"
    )
    assert open_sizes(copy).config.tie_word_embeddings is False
    assert open_checkpoint(copy).config.tie_word_embeddings is False


def test_the_sizes_of_a_quantized_checkpoint_are_refused_as_well(copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    settings["quantization_config"] = {"quant_method": "awq"}
    (copy / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    for open_it in (open_checkpoint, open_sizes):
        with pytest.raises(UserError, match="quantization_config"):
            open_it(copy)


def test_janus_is_not_taken_for_deepseek_vl(copy: Path) -> None:
    """The trap: both have the same `model_type` in the original layout."""
    settings = {"model_type": "multi_modality", "gen_vision_config": {}}
    (copy / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="image generation of Janus without its understanding"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-ai/deepseek-vl-1.3b-chat", True),
        ("embedded", False),
        ("./here/there", False),
        ("/root/model", False),
        ("~/model", False),
        ("a/b/c", False),
        ("deepseek-ai/deepseek-vl-1.3b-chat@refs/pr/1", True),
        ("embedded@main", False),
    ],
)
def test_names_on_the_hub(name: str, expected: bool) -> None:
    assert is_hub_name(name) is expected


def test_a_folder_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_hub_name("owner/name")


def test_a_meta_model_for_an_estimate_needs_no_tokenizer(copy: Path) -> None:
    from dsvl_tune.models.checkpoint.load import create_model

    (copy / "tokenizer.json").unlink()
    model = create_model(open_sizes(copy), torch.bfloat16, storage="shapes")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(parameter.is_meta for parameter in model.parameters())
