"""A random small DeepSeek-VL2 in transformers' layout: tiles of 40 px, the golden tokenizers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parent / "golden" / "deepseek_vl2"
TILE = 40
CANDIDATES = [[40, 40], [40, 80], [80, 40], [80, 80], [120, 40], [40, 120]]
SPECIAL_IDS = {"tiny": (0, 1, 2), "small": (400, 401, 402), "base": (0, 1, 2)}
MLA: dict[str, Any] = {"use_mla": True, "kv_lora_rank": 64, "q_lora_rank": None}
MLA |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"use_mla": False, "kv_lora_rank": None, "q_lora_rank": None},
    "small": MLA,
    "base": {
        **MLA,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.0,
    },
}


def build_deepseek_vl2(folder: Path, size: str = "base", width: int = 64) -> Path:
    """Attention and router as in the published model of this size; every tensor is random.

    Args:
        folder: to write to.
        size: tiny, small or base.
        width: of the decoder; bitsandbytes needs multiples of 64.
    """
    from dsvl_tune.families.deepseek_vl2.modeling import DeepseekVL2ForConditionalGeneration
    from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2Config

    bos, eos, pad = SPECIAL_IDS[size]
    text = {
        **SIZES[size],
        **{"vocab_size": 448, "hidden_size": width, "intermediate_size": 128},
        **{"moe_intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"num_key_value_heads": 4, "n_shared_experts": 2, "n_routed_experts": 8},
        **{"num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
        **{"max_position_embeddings": 1024},
        **{"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad},
    }
    vision = {
        **{"image_size": TILE, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "vision_use_head": False},
        "hidden_act": "gelu_pytorch_tanh",
    }
    config = DeepseekVL2Config(
        text_config=text,
        vision_config=vision,
        image_token_id=403 if size == "small" else 400,
        candidate_resolutions=CANDIDATES,
    )
    torch.manual_seed(7)
    model = DeepseekVL2ForConditionalGeneration(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            scale = 0.1 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5
            tensor.copy_(center + scale * torch.randn_like(tensor))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(GOLDEN / size / "checkpoint" / name, folder / name)
    settings = json.loads((GOLDEN / size / "checkpoint" / "processor_config.json").read_text())
    settings |= {"candidate_resolutions": CANDIDATES, "patch_size": 8}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder
