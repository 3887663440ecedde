"""Janus: its names, sizes, roles and marks; what it carries; what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from janus_golden import CHECKPOINT, copy_checkpoint
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, part_of
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import check_family, open_checkpoint, open_sizes
from dsvl_tune.families.janus.family import JANUS
from dsvl_tune.families.janus.key_map import RULES
from dsvl_tune.families.janus.parts import PARTS, PRESETS
from dsvl_tune.families.key_rules import group_of_original
from dsvl_tune.models.build import Adaptation, adapted_model
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.plan import make_plan

GOLDEN = Path(__file__).parents[2] / "golden"
GENERATION = {"gen_vision", "gen_embed", "gen_aligner", "gen_head"}
PRO, PLAIN = ("<|User|>", "<|Assistant|>"), ("User", "Assistant")


# --- Names and sizes


def test_every_name_has_the_place_that_the_converter_gives_it() -> None:
    """The rules were written down from transformers' own converter."""
    path = GOLDEN / "janus_name_map_rules.json"
    rules = json.loads(path.read_text(encoding="utf-8"))["janus"]
    unused = JANUS.unused_tensors(open_checkpoint(CHECKPOINT).config)
    for name in open_checkpoint(CHECKPOINT).headers:
        (rule,) = [rule for rule in rules if re.fullmatch(rule["original_regex"], name)]
        wanted = tuple(
            re.sub(rule["original_regex"], template, name) for template in rule["transformers"]
        )
        group = group_of_original(name, RULES)
        if rule["kind"] == "drop":
            assert group is None and name in unused
        else:
            assert group is not None and group.transformers == wanted


# Parameters of each part, as counted of transformers' classes.
SIGLIP = 303_688_704
VQ = {"gen_vision": 71_883_403, "gen_embed": 131_072}
SIZES = {
    "Janus-Pro-1B": {
        "siglip": SIGLIP,
        "aligner": 6_295_552,
        "embed_tokens": 209_715_200,
        "language_model": 1_233_223_680 + 2048,
        "lm_head": 209_715_200,
        **VQ,
        "gen_aligner": 4_214_784,
        "gen_head": 37_767_168,
    },
    "Janus-Pro-7B": {
        "siglip": SIGLIP,
        "aligner": 20_979_712,
        "embed_tokens": 419_430_400,
        "language_model": 6_071_500_800 + 4096,
        "lm_head": 419_430_400,
        **VQ,
        "gen_aligner": 16_818_176,
        "gen_head": 83_906_560,
    },
}
TOTALS = {"Janus-Pro-1B": 2_076_636_811, "Janus-Pro-7B": 7_407_773_323}
LANGUAGE = {
    "Janus-Pro-1B": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    # Its file leaves the rest to Llama's defaults.
    "Janus-Pro-7B": {"num_hidden_layers": 30},
}


def published_settings(name: str) -> dict[str, Any]:
    """config.json as it is published: towers by name, no sizes of theirs."""
    settings = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    width = SIZES[name]["embed_tokens"] // 102_400
    settings["language_config"] = {
        "model_type": "llama",
        "vocab_size": 102_400,
        "max_position_embeddings": 16_384,
        "torch_dtype": "bfloat16",
        "_attn_implementation": "flash_attention_2",
        **LANGUAGE[name],
    }
    siglip = {
        "image_size": 384,
        "model_name": "siglip_large_patch16_384",
        "select_feature": "same",
        "select_layer": -1,
    }
    vq = {"image_token_size": 16_384, "n_embed": 8}
    head = {"image_token_embed": width, "image_token_size": 16_384, "n_embed": width}
    settings["vision_config"]["params"] = siglip
    settings["gen_vision_config"] = {"cls": "VQ-16", "model_type": "gen_vision", "params": vq}
    settings["gen_head_config"]["params"] = head
    for aligner, width_in in (("aligner_config", 1024), ("gen_aligner_config", 8)):
        settings[aligner]["params"] |= {"input_dim": width_in, "n_embed": width}
    return settings


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_come_from_config_json_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published_settings(name)), encoding="utf-8")
    config = open_sizes(tmp_path).config
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
        loaded = JANUS.loaded_class(config)(config)
    counted = Counter()
    for tensor_name, parameter in model.named_parameters():
        counted[part_of(tensor_name, PARTS)] += parameter.numel()
    assert counted == SIZES[name]
    assert counted.total() == TOTALS[name]
    assert len(model.state_dict()) == {"Janus-Pro-1B": 964, "Janus-Pro-7B": 1018}[name]
    kept = sum(size for part, size in SIZES[name].items() if part not in GENERATION)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == kept


def test_without_weights_an_unknown_tower_is_named(tmp_path: Path) -> None:
    shutil.copy(CHECKPOINT / "config.json", tmp_path)
    with pytest.raises(UserError, match="sizes of 'siglip_mini' are not known"):
        _ = open_sizes(tmp_path).config


# --- Parts


def test_presets_train_understanding_alone(janus_checkpoint: Path) -> None:
    for preset, plan in PRESETS.items():
        assert not set(plan) & GENERATION
        if not plan or preset == "qlora":
            continue
        model, _ = adapted_model(
            open_checkpoint(janus_checkpoint), Adaptation(preset=preset, parts={})
        )
        trained = {part_of(n, PARTS) for n, p in model.named_parameters() if p.requires_grad}
        assert trained == set(plan)


def test_adapters_go_where_the_plan_says(janus_checkpoint: Path) -> None:
    for part in ("siglip", "aligner", "language_model", "lm_head"):
        adaptation = Adaptation(preset="none", parts={part: PartPlan("lora")})
        model, _ = adapted_model(open_checkpoint(janus_checkpoint), adaptation)
        adapted = {part_of(n, PARTS) for n, _ in model.named_parameters() if "lora_" in n}
        assert adapted == {part}


@pytest.mark.parametrize("part", sorted(GENERATION))
def test_generation_is_frozen_by_name_and_never_trained(part: str) -> None:
    assert make_plan(JANUS, "lora", {part: PartPlan("frozen")})[part].mode == "frozen"
    for mode in ("full", "lora"):
        with pytest.raises(UserError, match=f"{part} cannot"):
            make_plan(JANUS, "lora", {part: PartPlan(mode)})  # type: ignore[arg-type]


def test_generation_is_in_no_model_and_in_every_export(
    janus_checkpoint: Path, tmp_path: Path
) -> None:
    weights = Weights(open_checkpoint(janus_checkpoint))
    carried = {name for name in weights.shapes if part_of(name, PARTS) in GENERATION}
    assert carried
    model = create_model(open_checkpoint(janus_checkpoint))
    assert set(dict(model.named_parameters())) == set(weights.shapes) - carried

    source = load_file(janus_checkpoint / "model.safetensors")
    for layout in ("original", "transformers"):
        (tmp_path / layout).mkdir()
        merge_into(weights, {}, tmp_path / layout, layout, None)  # type: ignore[arg-type]
        weights = Weights(open_checkpoint(tmp_path / layout))
        for name in carried:
            assert torch.equal(weights.read(name), source[name])


def test_a_repetition_penalty_reaches_generation(janus_checkpoint: Path) -> None:
    """transformers' own method drops it."""
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    model = create_model(open_checkpoint(janus_checkpoint))
    ids = torch.tensor([[400, 40, 56]])
    penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1e6)])
    made = model.generate(
        input_ids=ids, max_new_tokens=8, do_sample=False, logits_processor=penalty
    )
    assert len(set(made[0, 3:].tolist())) == 8


# --- Roles, marks, system prompt


@pytest.mark.parametrize(
    ("changes", "name", "roles"),
    [
        ({}, "checkpoint", PRO),
        ({"processor_config": {"sft_format": "deepseek_old"}}, "checkpoint", PLAIN),
        ({}, "Janus-1.3B", PLAIN),
    ],
)
def test_roles_travel_through_both_layouts(
    tmp_path: Path, changes: dict[str, Any], name: str, roles: tuple[str, str]
) -> None:
    source = copy_checkpoint(tmp_path / name, **changes)
    for layout, out in (("transformers", "there"), ("original", "back"), ("original", "again")):
        checkpoint = open_checkpoint(source)
        assert checkpoint.processor.roles == roles
        (tmp_path / out).mkdir()
        merge_into(Weights(checkpoint), {}, tmp_path / out, layout, None)  # type: ignore[arg-type]
        source = tmp_path / out
    assert open_checkpoint(source).processor.roles == roles
    for path in (tmp_path / name).iterdir():
        assert (source / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_unknown_template_is_refused(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "it", processor_config={"sft_format": "plain"})
    with pytest.raises(UserError, match="sft_format is 'plain', expected one of deepseek"):
        _ = open_checkpoint(folder).processor


def test_files_of_transformers_own_converter(tmp_path: Path, janus_checkpoint: Path) -> None:
    """The processor has the system prompt there, and the template none."""
    folder = tmp_path / "converted"
    shutil.copytree(janus_checkpoint, folder)
    template = "{% for m in messages %}<|User|>: {{ m['content'][0]['text'] }}\n\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert open_checkpoint(folder).processor.default_system == ""
    settings = {"use_default_system_prompt": True}
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    processor = open_checkpoint(folder).processor
    assert processor.default_system.startswith("You are a helpful language and vision")
    assert processor.roles == PRO


def test_marks_and_padding_come_from_the_vocabulary(tmp_path: Path) -> None:
    folder = copy_checkpoint(
        tmp_path / "it",
        tokenizer_config={"pad_token": None, "additional_special_tokens": []},
        special_tokens_map={"pad_token": "<｜end▁of▁sentence｜>", "additional_special_tokens": []},
    )
    processor = open_checkpoint(folder).processor
    assert processor.pad_id == 402
    assert processor.image_token_id == 403
    ids = JANUS.image_token_ids(processor, None, 1)
    assert (ids[0], ids[-1], len(ids), set(ids[1:-1])) == (404, 405, 578, {403})
    assert {"<image_placeholder>", "<begin_of_image>", "<end_of_image>"} <= set(
        processor.tokenizer.all_special_tokens
    )
    assert len(processor.tokenizer) == len(open_checkpoint(CHECKPOINT).tokenizer)


def test_a_tokenizer_without_marks_is_refused(tmp_path: Path, janus_checkpoint: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(janus_checkpoint, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(GOLDEN / "siglip" / "checkpoint" / name, folder / name)
    with pytest.raises(UserError, match="no <begin_of_image>"):
        _ = open_checkpoint(folder).processor


# --- Pixels by the file


@pytest.mark.parametrize(
    ("changes", "background", "mean"),
    [
        ({"background_color": [1, 2, 3]}, (127, 127, 127), 0.5),
        ({"do_normalize": False}, (127, 127, 127), 0.0),
        ({"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}, (0, 0, 0), 0.0),
    ],
)
def test_pixels_are_what_the_file_says(
    tmp_path: Path, changes: dict[str, Any], background: tuple[int, int, int], mean: float
) -> None:
    folder = copy_checkpoint(tmp_path / "it", preprocessor_config=changes)
    settings = open_checkpoint(folder).processor.image_settings
    assert settings.background == background
    assert settings.siglip.mean[0] == mean


def test_without_mean_the_original_takes_clips(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "it")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"image_size": 384}), encoding="utf-8")
    settings = open_checkpoint(folder).processor.image_settings
    assert settings.background == (122, 116, 104)
    assert settings.siglip.std[0] == 0.26862954


# --- Refused


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (
            {"model_type": "multi_modality", "vision_und_enc_config": {}, "language_config": {}},
            "JanusFlow",
        ),
        ({"model_type": "janus_vqgan"}, "image generation of Janus"),
        ({"model_type": "multi_modality", "gen_vision_config": {}}, "image generation of Janus"),
    ],
)
def test_relatives_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match=name):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_weights_of_generation_alone_are_refused(
    tmp_path: Path, janus_checkpoint: Path, layout: str
) -> None:
    base = CHECKPOINT if layout == "original" else janus_checkpoint
    folder = tmp_path / "it"
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    generation = ("gen_", "model.vqmodel", "model.generation")
    alone = {name: tensor for name, tensor in tensors.items() if name.startswith(generation)}
    save_file(alone, folder / "model.safetensors")
    with pytest.raises(UserError, match="image generation of Janus alone"):
        _ = open_checkpoint(folder).config


def test_widths_that_transformers_cannot_hold_are_refused(tmp_path: Path) -> None:
    head = {"image_token_embed": 32, "image_token_size": 64, "n_embed": 64}
    folder = copy_checkpoint(tmp_path / "it", config={"gen_head_config": {"params": head}})
    with pytest.raises(UserError, match="image_token_embed 32"):
        _ = open_checkpoint(folder).config


def test_a_recipe_of_one_family_names_both(janus_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(janus_checkpoint)
    check_family(checkpoint, None)
    check_family(checkpoint, "Janus")
    with pytest.raises(UserError, match=r"a Janus checkpoint, and this recipe is for DeepSeek-VL"):
        check_family(checkpoint, "DeepSeek-VL")
    with pytest.raises(UserError, match="Did you mean 'Janus'"):
        check_family(checkpoint, "Janos")


def test_what_the_original_has_fixed_is_not_written(tmp_path: Path, janus_checkpoint: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(janus_checkpoint, folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["vision_config"]["hidden_act"] = "gelu_pytorch_tanh"
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="cannot hold vision_config.hidden_act"):
        merge_into(Weights(open_checkpoint(folder)), {}, tmp_path / "out", "original", None)
