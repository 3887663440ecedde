"""How much of a DeepSeek-VL2 step its routed experts take: plain, with adapters, and in 4 bits.

    python benchmarks/speed/expert_share.py [TOKENS]

A random model of an eighth of Small's widths: 64 experts of which a token uses 6, in 4 layers. One
step (forward and backward) of one row of TOKENS (1024) text tokens after a warm-up step, in float32
on the CPU, one thread. Grouped matmuls are the experts alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.text_table import format_table
from dsvl_tune.families import open_sizes
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.families.deepseek_vl2.modeling import DeepseekVL2ForConditionalGeneration
from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2Config
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan

TEXT: dict[str, Any] = {
    **{"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 1408},
    **{"moe_intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"n_shared_experts": 2, "n_routed_experts": 64, "num_experts_per_tok": 6},
    **{"first_k_dense_replace": 1, "kv_lora_rank": 64, "q_lora_rank": None},
    **{"bos_token_id": 0, "eos_token_id": 1},
    **{"qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64},
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "image_size": 40}
VISION |= {"num_attention_heads": 4, "patch_size": 8}
CASES: dict[str, tuple[dict[str, PartPlan], Any]] = {
    "frozen": ({}, None),
    "LoRA, rank 8": ({"experts": PartPlan("lora", rank=8)}, None),
    "fully trained": ({"experts": PartPlan("full")}, None),
    "frozen, 4 bits": ({}, "nf4"),
    "LoRA, rank 8, 4 bits": ({"experts": PartPlan("lora", rank=8)}, "nf4"),
}
"""What happens to the experts -> their plan, next to LoRA on the rest, and the base's bits."""

GROUPED = "aten::_grouped_mm"
UNPACKING = "bitsandbytes::dequantize_4bit"
"""Also of the linear layers, a tenth of the weights."""


def write_model(folder: Path) -> None:
    """Write a random model, without a tokenizer."""
    torch.manual_seed(1)
    config = DeepseekVL2Config(
        text_config=TEXT,
        vision_config={**VISION, "vision_use_head": False},
        image_token_id=1023,
        candidate_resolutions=[[40, 40]],
    )
    DeepseekVL2ForConditionalGeneration(config).save_pretrained(folder)


def step(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Forward and backward of one row, [1, T] int64."""
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def measure(folder: Path, parts: dict[str, PartPlan], bits: Any, tokens: int) -> list[str]:
    """Seconds of a step, and the percentages of grouped matmuls and of unpacking in it."""
    model = create_model(open_sizes(folder), quantization=bits)
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL2, "lora", parts), model, set()))
    ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(2))
    model.train()
    step(model, ids)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(model, ids)
    events = profiled.key_averages()
    total = events.self_cpu_time_total
    spent = {event.key: event.cpu_time_total for event in events}  # with the operators inside
    shares = [100 * spent.get(name, 0) / total for name in (GROUPED, UNPACKING)]
    return [f"{total / 1e6:.2f}", *(f"{share:.0f} %" for share in shares)]


def main() -> None:
    """Measure every case and print a table."""
    torch.set_num_threads(1)
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with TemporaryDirectory() as name:
        write_model(Path(name))
        rows = [
            [case, *measure(Path(name), parts, bits, tokens)]
            for case, (parts, bits) in CASES.items()
        ]
    print(format_table(["experts", "CPU s", "grouped matmuls", "unpacking"], rows))


if __name__ == "__main__":
    main()
