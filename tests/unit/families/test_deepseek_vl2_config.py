"""DeepSeek-VL2's configuration: DeepSeek's own defaults, published sizes, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

from dsvl_tune.cli.commands.estimate_memory import main as estimate_memory
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import part_of
from dsvl_tune.families import family_of, open_checkpoint
from dsvl_tune.families.deepseek_vl2.config import original_config
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.families.deepseek_vl2.modeling import DeepseekVL2ForConditionalGeneration
from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2TextConfig
from dsvl_tune.families.deepseek_vl2.modeling.decoder import Router
from dsvl_tune.families.deepseek_vl2.parts import PARTS
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.recipe.shipped import shipped_recipes

GOLDEN = Path(__file__).parents[2] / "golden" / "deepseek_vl2"
DEFAULTS = json.loads((GOLDEN / "config_defaults.json").read_text())

# As the published files are quoted by others: keys that equal DeepSeek's defaults are left out.
SIGLIP = {"model_type": "vision", "layers": 27, "mlp_ratio": 3.7362, "patch_size": 14}
SIGLIP |= {"model_name": "siglip_so400m_patch14_384", "width": 1152}
MOE = {"n_shared_experts": 2, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_group": 1}
MOE |= {"topk_group": 1, "first_k_dense_replace": 1, "max_position_embeddings": 4096}
MOE |= {"q_lora_rank": None, "kv_lora_rank": 512, "topk_method": "greedy"}
NO_MLA: dict[str, Any] = {"use_mla": False, "kv_lora_rank": None, "v_head_dim": 0}
NO_MLA |= {"qk_rope_head_dim": 0, "qk_nope_head_dim": 0}
LANGUAGE: dict[str, dict[str, Any]] = {
    "tiny": {
        **MOE,
        **NO_MLA,
        "vocab_size": 129280,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "moe_intermediate_size": 896,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
    },
    "small": {
        **MOE,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "base": {
        **MOE,
        "vocab_size": 129280,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 72,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.0,
    },
}


def settings_of(size: str) -> dict[str, Any]:
    language = LANGUAGE[size]
    return {
        "architectures": ["DeepseekVLV2ForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "tile_tag": "2D",
        "global_view_pos": "head",
        "candidate_resolutions": [[384, 384], [384, 768]],
        "vision_config": SIGLIP,
        "projector_config": {"n_embed": language["hidden_size"], "model_type": "mlp_projector"},
        "language_config": language,
    }


def test_every_default_of_the_decoder_is_deepseeks() -> None:
    ours = DeepseekVL2TextConfig()
    for key, value in DEFAULTS["language_config"].items():
        if key in ("seq_aux", "moe_layer_freq", "rope_scaling"):  # fixed, or of the loss alone
            continue
        if key == "rope_theta":
            assert ours.rope_parameters == {"rope_theta": value, "rope_type": "default"}
        else:
            wanted = "greedy" if key == "topk_method" else value
            assert getattr(ours, key) == wanted, key


# Parameters by part, without the attention pool: measured on DeepSeek's own classes.
COUNTS = {
    "tiny": (3_355_263_088, 7_539_200, 165_478_400, 222_094_848, 2_422_210_560, 901_120),
    "small": (16_133_111_152, 13_635_584, 209_715_200, 515_054_592, 14_394_851_328, 3_407_872),
    "base": (27_464_893_808, 18_355_200, 330_956_800, 1_099_964_928, 24_631_050_240, 5_345_280),
}
TENSORS = {"tiny": 587, "small": 794, "base": 833}


@pytest.mark.parametrize("size", list(LANGUAGE))
def test_published_sizes(size: str) -> None:
    config = original_config(settings_of(size), 0)
    with torch.device("meta"):
        model = DeepseekVL2ForConditionalGeneration(config)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name, PARTS)] += parameter.numel()
    found = (counts.total(), *(counts[part] for part in ("projector", "lm_head")))
    siglip_attention = 27 * 4 * (1152**2 + 1152)  # counted with the decoder's there
    found += (counts["attention"] + siglip_attention, counts["experts"], counts["router"])
    assert found == COUNTS[size]
    assert counts["siglip"] == 412_987_248
    assert len(list(model.parameters())) == TENSORS[size]  # without the correction biases
    assert config.text_config.num_hidden_layers == {"tiny": 12, "small": 27, "base": 30}[size]


ALL_CANDIDATES = [[384 * w, 384 * h] for w in range(1, 10) for h in range(1, 10) if w * h <= 9]
CUDA_GB = 0.5
"""What CUDA itself takes of a card, which the estimate leaves out."""


@pytest.mark.parametrize(("size", "card_gb", "estimated"), [("tiny", 12, 7.7), ("small", 40, 36.4)])
def test_recipes_fit_on_the_cards_that_they_name(
    size: str, card_gb: float, estimated: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**settings_of(size), "candidate_resolutions": ALL_CANDIDATES}
    original_config(settings, 0).save_pretrained(tmp_path)
    recipe = f"deepseek_vl2_{size}_lora"
    estimate_memory(["--config", recipe, "--model.checkpoint", str(tmp_path)])
    printed = capsys.readouterr().out
    head, _, one_card, *_ = printed[printed.index("GPUs  ") :].splitlines()
    column = re.split(r" {2,}", head).index("each GPU")
    needed = float(one_card.split()[column])
    assert needed + CUDA_GB < card_gb
    assert needed == pytest.approx(estimated, abs=0.051)
    header = shipped_recipes()[recipe].read_text(encoding="utf-8")
    assert f"{card_gb} GB" in header
    assert f"{estimated} GB for a row of 4096 tokens" in header


@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2)])
def test_the_router_of_the_base_is_deepseek_v3s(groups: int, kept: int) -> None:
    shape = {"hidden_size": 32, "n_routed_experts": 16, "num_experts_per_tok": 3}
    shape |= {"n_group": groups, "topk_group": kept, "routed_scaling_factor": 2.0}
    theirs = DeepseekV3TopkRouter(DeepseekV3Config(**shape, norm_topk_prob=True))
    config = DeepseekVL2TextConfig(
        **shape, topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True
    )
    ours = Router(config)
    torch.manual_seed(3)
    theirs.weight.data.normal_()
    theirs.e_score_correction_bias.normal_()
    ours.load_state_dict(theirs.state_dict())
    hidden = torch.randn(50, 32)
    logits, weights, chosen = theirs(hidden)
    scores, own_chosen, own_weights = ours(hidden)
    order, own_order = chosen.argsort(1), own_chosen.argsort(1)
    assert torch.equal(chosen.gather(1, order), own_chosen.gather(1, own_order))
    assert torch.allclose(weights.gather(1, order), own_weights.gather(1, own_order))
    assert torch.allclose(logits.sigmoid(), scores)


@pytest.mark.parametrize(
    "ocr",
    [
        {"architectures": ["DeepseekOCRForCausalLM"]},
        {"auto_map": {"AutoModel": "modeling_deepseekocr2.DeepseekOCR2ForCausalLM"}},
        {"vision_config": {"width": {"clip-l-14-224": {}, "sam_vit_b": {}}}},
    ],
)
def test_deepseek_ocr_is_named_and_refused(ocr: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="config.json: this is DeepSeek-OCR, which is not trained"):
        family_of({**settings_of("tiny"), **ocr}, "folder/config.json")


def test_a_janus_checkpoint_is_not_recognized() -> None:
    assert not DEEPSEEK_VL2.recognizes({"model_type": "multi_modality", "gen_vision_config": {}})
    assert not DEEPSEEK_VL2.recognizes({"model_type": "janus"})


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("", "tile_tag", "1D", "tile_tag is '1D', expected '2D'"),
        ("", "candidate_resolutions", [[400, 384]], "expected multiples of 384"),
        ("projector_config", "projector_type", "linear", "projector_type is 'linear'"),
        ("language_config", "topk_method", "group_limited_greedy", "expected one of gready"),
        ("language_config", "scoring_func", "tanh", "expected one of softmax, sigmoid"),
        ("language_config", "num_experts_per_tok", None, "num_experts_per_tok is None"),
        ("language_config", "rope_scaling", {"type": "yarn"}, "rope_scaling is"),
        ("language_config", "hidden_size", "wide", "hidden_size is .wide., expected an integer"),
    ],
)
def test_settings_that_no_published_checkpoint_has(
    tmp_path: Path, section: str, key: str, value: Any, message: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "small" / "checkpoint", folder)
    settings = json.loads((folder / "config.json").read_text())
    (settings[section] if section else settings)[key] = value
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        Weights(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patch_size", 16, "patch_size is 16, expected 14"),
        ("candidate_resolutions", [[768, 500]], "expected multiples of 384"),
        ("image_mean", [0.5], "image_mean has 1 values, expected one for each channel"),
    ],
)
def test_image_settings_that_contradict_the_configuration(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "tiny" / "checkpoint", folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**settings, key: value}))
    with pytest.raises(UserError, match=message):
        _ = open_checkpoint(folder).processor
