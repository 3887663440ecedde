"""Adapters that were altered: every key and tensor, right or one message, and nothing hangs."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsvl_tune.core import limits
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.export.merge_adapter import check_changes, read_changes
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import apply_plan, load_trained, save_trained
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.finetuning.trained_files import ADAPTER_WEIGHTS as TENSORS
from dsvl_tune.models.finetuning.trained_files import PEFT_CONFIG as CONFIG

LAYER = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
ENDLESS = r"((a|.)+)+(x|y)\.never"
VALUES = {
    "null": None,
    "text": "x",
    "nan": math.nan,
    "infinite": 1e999,
    "zero": 0,
    "negative": -1,
    "huge": 2**40,
    "list": ["x"],
    "object": {"x": 1},
    "true": True,
}
HARMLESS = {
    *("peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "megatron_core", "qalora_group_size"),
    *("ensure_weight_tying",),
}


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is stopped sooner than for users."""
    monkeypatch.setattr(limits, "CPU_SECONDS", 1)


@pytest.fixture(scope="module")
def adapter(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DoRA of two ranks on the language model and the aligner."""
    model = create_model(open_checkpoint(hybrid_checkpoint))
    parts = {
        "language_model": PartPlan("lora", rank=4),
        "aligner": PartPlan("lora", rank=2, alpha=8),
    }
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, "none", parts), model, set(parts)), "dora")
    folder = tmp_path_factory.mktemp("adapter")
    save_trained(model, folder, open_checkpoint(hybrid_checkpoint))
    return folder


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "adapter"))


def loaded(folder: Path, base: Path) -> None:
    """As `chat --adapter` and the verification of `merge` do."""
    load_trained(create_model(open_checkpoint(base)), folder)


def merged(folder: Path, base: Path) -> None:
    """As `merge` does, up to the first tensor that is written."""
    check_changes(Weights(open_checkpoint(base)), read_changes(folder, DEEPSEEK_VL))


def outcome(folder: Path, base: Path, ways: tuple[Any, ...] = (merged, loaded)) -> list[str]:
    """What each way of reading an adapter says; "" where it is taken."""
    said = []
    for way in ways:
        began = time.monotonic()
        try:
            way(folder, base)
            said.append("")
        except UserError as error:
            said.append(str(error))
        assert not said[-1] or str(folder) in said[-1] or str(base) in said[-1]
        assert time.monotonic() - began < 20
    return said


def test_every_key_of_the_configuration(copied: Path, hybrid_checkpoint: Path) -> None:
    content = json.loads((copied / CONFIG).read_text(encoding="utf-8"))
    tried, taken = 0, set()
    for key in content:
        for kind, value in VALUES.items():
            if content[key] == value or (not content[key] and not value):
                continue
            (copied / CONFIG).write_text(json.dumps({**content, key: value}), encoding="utf-8")
            tried += 1
            (said,) = outcome(copied, hybrid_checkpoint, (merged,))
            if not said:
                taken.add((key, kind))
        rest = {name: value for name, value in content.items() if name != key}
        (copied / CONFIG).write_text(json.dumps(rest), encoding="utf-8")
        outcome(copied, hybrid_checkpoint, (merged,))
    assert tried > 200
    serious = {(key, kind) for key, kind in taken if key not in HARMLESS}
    # A pattern that fits no layer, and a missing one, are taken; merging does not need the targets.
    assert serious <= {
        *(("alpha_pattern", kind) for kind in ("null", "object", "zero")),
        *(("target_modules", kind) for kind in ("text", "list")),
        ("target_parameters", "list"),
        ("lora_alpha", "huge"),
        ("init_lora_weights", "zero"),
        ("use_rslora", "true"),
        ("modules_to_save", "list"),
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 8, "rank_pattern": {}}, "of rank 8, as its settings say"),
        ({"r": None}, "r is 'None', expected an integer"),
        ({"rank_pattern": {ENDLESS: 4}}, "rank_pattern: a pattern cannot be matched"),
        ({"alpha_pattern": {ENDLESS: 4}}, "alpha_pattern: a pattern cannot be matched"),
        ({"alpha_pattern": {"(": 4}}, "alpha_pattern: a pattern cannot be matched"),
        ({"lora_alpha": math.nan}, "lora_alpha is 'nan'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "init_lora_weights"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config is"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is 'True'"),
        ({"use_dora": False}, "use_dora is not true"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"a_later_key": {"x": 1}}, "a_later_key"),
    ],
)
def test_what_is_said_of_a_configuration(
    changes: dict[str, Any], said: str, copied: Path, hybrid_checkpoint: Path
) -> None:
    content = json.loads((copied / CONFIG).read_text(encoding="utf-8"))
    (copied / CONFIG).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    for message in outcome(copied, hybrid_checkpoint):
        assert said in message


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (ENDLESS, "target_modules cannot be matched"),
        ("(", "target_modules cannot be matched"),
        (["q_proj"], "the adapter of .* does not|has no place|is not there|does not fit"),
    ],
)
def test_targets_that_are_endless_or_do_not_fit(
    targets: Any, said: str, copied: Path, hybrid_checkpoint: Path
) -> None:
    content = json.loads((copied / CONFIG).read_text(encoding="utf-8"))
    (copied / CONFIG).write_text(json.dumps({**content, "target_modules": targets}))
    with pytest.raises(UserError, match=said):
        loaded(copied, hybrid_checkpoint)


def alter(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    changed = copy.copy(tensors)
    a, b = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
    size = f"{LAYER}.lora_magnitude_vector"
    if how == "swapped":
        changed[a], changed[b] = tensors[b], tensors[a]
    elif how == "transposed":
        changed[a], changed[b] = tensors[a].T.contiguous(), tensors[b].T.contiguous()
    elif how == "rank":
        changed[a], changed[b] = tensors[a][:3].clone(), tensors[b][:, :3].clone()
    elif how == "int8":
        changed[a] = tensors[a].to(torch.int8)
    elif how == "float64":
        changed[b] = tensors[b].double()
    elif how == "nan":
        changed[b] = torch.full_like(tensors[b], math.nan)
    elif how == "no A":
        del changed[a]
    elif how == "no magnitude":
        del changed[size]
    elif how == "magnitude":
        changed[size] = tensors[size][:-1].clone()
    elif how == "vector":
        changed[a] = tensors[a][0].clone()
    elif how == "renamed":
        changed[a.replace("q_proj", "nothing")] = changed.pop(a)
    elif how == "embedding":
        changed["base_model.model.lm_head.lora_embedding_A"] = tensors[a].clone()
    elif how == "layer":
        for name in (a, b, size):
            del changed[name]
    elif how == "empty":
        changed = {}
    elif how == "outputs":
        changed[b] = tensors[b][:-1].clone()
        changed[size] = tensors[size][:-1].clone()
    return changed


WAYS = [
    *("swapped", "transposed", "rank", "int8", "float64", "nan", "no A", "no magnitude"),
    *("magnitude", "vector", "renamed", "embedding", "empty", "outputs"),
]


@pytest.mark.parametrize("how", WAYS)
def test_tensors_that_were_altered(how: str, copied: Path, hybrid_checkpoint: Path) -> None:
    tensors = alter(load_file(copied / TENSORS), how)
    save_file(tensors, copied / TENSORS)
    for said in outcome(copied, hybrid_checkpoint):
        assert said, how


def test_a_layer_that_was_left_out_is_noticed_where_the_adapter_is_loaded(
    copied: Path, hybrid_checkpoint: Path
) -> None:
    save_file(alter(load_file(copied / TENSORS), "layer"), copied / TENSORS)
    with pytest.raises(UserError, match=r"does not fit the base .*q_proj is not there"):
        loaded(copied, hybrid_checkpoint)


def test_targets_that_are_endless_on_other_modules_than_linear_layers_are_not_matched_there(
    copied: Path, hybrid_checkpoint: Path
) -> None:
    content = json.loads((copied / CONFIG).read_text(encoding="utf-8"))
    slow = r"(?=.*norm)([a-z_.0-9]+)+!"
    for key in ("rank_pattern", "alpha_pattern"):
        content[key] = {slow: 4, **content[key]}
    content["target_modules"] = f"{slow}|{content['target_modules']}"
    (copied / CONFIG).write_text(json.dumps(content), encoding="utf-8")
    assert outcome(copied, hybrid_checkpoint) == ["", ""]


def test_what_was_saved_is_taken(copied: Path, hybrid_checkpoint: Path) -> None:
    assert outcome(copied, hybrid_checkpoint) == ["", ""]
