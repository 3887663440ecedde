"""Every layout of a checkpoint folder gives the same model, tokenizer, image rule and tie flag."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig

from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS, WEIGHTS_INDEX
from dsvl_tune.core.errors import UserError
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.export.write_weights import Layout
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights

GOLDEN = Path(__file__).parents[2] / "golden"
FORMS = ("original", "transformers", "names of transformers 5")


def write(base: Path, target: Path, layout: Layout) -> Path:
    """The base in a layout."""
    target.mkdir()
    merge_into(Weights(open_checkpoint(base)), {}, target, layout, None)
    return target


def rewrite(
    folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], shards: int = 1
) -> None:
    """Put other tensors into a checkpoint of one file, in that many files."""
    tensors = list(change(load_file(folder / WEIGHTS)).items())
    (folder / WEIGHTS).unlink()
    if shards == 1:
        save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
        return
    places = {}
    for number in range(shards):
        name, part = (
            f"model-{number + 1:05}-of-{shards:05}.safetensors",
            dict(tensors[number::shards]),
        )
        save_file(part, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")


def flat(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that transformers 5 writes; ours are those of earlier releases."""
    nested = "model.vision_model.vision_model."
    assert any(name.startswith(nested) for name in tensors)
    return {name.replace(nested, "model.vision_model."): tensor for name, tensor in tensors.items()}


@cache
def reference(family: str) -> dict[str, Tensor]:
    """The weights of a golden checkpoint in float32."""
    state: dict[str, Tensor] = create_model(
        open_checkpoint(GOLDEN / family / "checkpoint")
    ).state_dict()
    return state


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting elsewhere is an error; offline switches are off, so that nothing else stops it."""

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("the network was touched")

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:]
)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_any_form_of_a_checkpoint(
    family: str, form: str, shards: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = GOLDEN / family / "checkpoint"
    folder = tmp_path / "checkpoint"
    if form == "original":
        shutil.copytree(base, folder)
    else:
        write(base, folder, "transformers")
    names = flat if form == "names of transformers 5" else dict
    rewrite(
        folder, lambda tensors: {name: t.to(dtype) for name, t in names(tensors).items()}, shards
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("tie_word_embeddings", None)  # transformers' default is tied
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    model, processor, wanted = (
        create_model(open_checkpoint(folder)),
        open_checkpoint(folder).processor,
        open_checkpoint(base).processor,
    )
    state = model.state_dict()
    assert all(
        torch.equal(state[name], tensor.to(dtype).float())
        for name, tensor in reference(family).items()
    )
    assert model.config.tie_word_embeddings is False
    ids = (480, 481, 481)
    assert (processor.bos_id, processor.eos_id, processor.pad_id) == ids
    text = model.config.text_config
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == ids
    assert processor.image_token_id == 486
    assert processor.image_settings == wanted.image_settings
    assert processor.tokenizer("Which 42?").input_ids == wanted.tokenizer("Which 42?").input_ids
    assert processor.default_system == wanted.default_system


def test_what_is_written_says_where_to_stop(tmp_path: Path) -> None:
    """The trap: Llama's default end id is 2, and a model that never stops is the result."""
    folder = write(GOLDEN / "siglip" / "checkpoint", tmp_path / "out", "transformers")
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (480, 481, 481)


def test_a_lost_lm_head_does_not_become_tied(tmp_path: Path) -> None:
    folder = write(GOLDEN / "siglip" / "checkpoint", tmp_path / "out", "transformers")
    rewrite(
        folder, lambda tensors: {name: t for name, t in tensors.items() if name != "lm_head.weight"}
    )
    with pytest.raises(UserError, match="missing: lm_head.weight"):
        create_model(open_checkpoint(folder))
    path = folder / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}), encoding="utf-8"
    )
    model = create_model(open_checkpoint(folder))
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_settings_written_from_nothing_are_those_of_the_original(
    family: str, tmp_path: Path
) -> None:
    """Without the side folder the original's settings are rebuilt, as the reference has them."""
    base = GOLDEN / family / "checkpoint"
    between = write(base, tmp_path / "between", "transformers")
    shutil.rmtree(between / "original")
    there = write(between, tmp_path / "there", "original")
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert json.loads((there / name).read_text()) == json.loads((base / name).read_text())
    made, wanted = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (there, base)
    )
    language, extra = made.pop("language_config"), {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    assert language == {**wanted.pop("language_config"), **extra}
    assert {
        key: made[key] for key in ("aligner_config", "model_type", "torch_dtype", "architectures")
    } == {
        key: wanted[key] for key in ("aligner_config", "model_type", "torch_dtype", "architectures")
    }
    towers = [config["vision_config"]["params"] for config in (made, wanted)]
    for key in ("high_res_cfg", "low_res_cfg") if family == "hybrid" else ("",):
        ours, theirs = (params[key] if key else params for params in towers)
        assert {name: ours[name] for name in theirs if name != "model_name"} == {
            name: value for name, value in theirs.items() if name != "model_name"
        }
    assert open_checkpoint(there).config.to_dict() == open_checkpoint(between).config.to_dict() | {
        "dtype": None,
        "architectures": None,
    }


def test_what_the_original_cannot_compute_is_refused(
    tmp_path: Path, hybrid_checkpoint: Path
) -> None:
    folder = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_act"] = "gelu_pytorch_tanh"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"vision_config.hidden_act 'gelu_pytorch_tanh'.*'gelu' fixed"
    ):
        write(folder, tmp_path / "out", "original")
