"""DeepSeek-VL2 in the original layout, in vLLM's own class for it: no plugin of ours takes part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from environments import vl2_paths, vllm_environment
from random_training import train_randomly
from served_by_vllm import ask_all, expected, found, serving
from trained_model import Record

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.interop import VLLM
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.export.merge_adapter import merge_into, read_changes
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import save_trained

GOLDEN = Path(__file__).parents[1] / "golden" / "deepseek_vl2"
PARTS = {
    "attention": PartPlan("lora", rank=4),
    "experts": PartPlan("lora", rank=4),
    "siglip": PartPlan("lora", rank=2),
    "projector": PartPlan("full"),
    "tile_embeddings": PartPlan("full"),
}
TOKENS = 12
# One with transparency is left out: vLLM puts it on white.
PAGE, PHOTO, SQUARE, STRIP, TALL, WIDE = (
    ImageRef(GOLDEN / "pictures" / "images" / name, name)
    for name in ("page.png", "photo.jpg", "square.png", "strip.png", "tall_p.png", "wide.png")
)
QUESTIONS = [
    *(
        Conversation((Turn("user", (image, "What is this?")),), image.name)
        for image in (PAGE, PHOTO, SQUARE, STRIP, TALL, WIDE)
    ),
    Conversation((Turn("user", ("Compare ", PHOTO, " and ", SQUARE)),), "two images"),
    Conversation(
        (
            Turn("user", (WIDE, "What is this?")),
            Turn("assistant", ("A line.",)),
            Turn("user", ("How long?",)),
        ),
        "two turns",
    ),
    Conversation((Turn("user", ("Hello there",)),), "text alone"),
]


def test_answers_token_by_token(tmp_path: Path, record: Record) -> None:
    """The golden Tiny with half as many heads, each as wide as vLLM's attention on a CPU needs."""
    base = Path(shutil.copytree(GOLDEN / "tiny" / "checkpoint", tmp_path / "base"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for key in ("num_attention_heads", "num_key_value_heads"):
        config["language_config"][key] //= 2
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_trained(train_randomly(base, PARTS), tmp_path / "trained", open_checkpoint(base))
    merged = tmp_path / "merged"
    merged.mkdir()
    weights = Weights(open_checkpoint(base))
    changes = read_changes(tmp_path / "trained", weights.checkpoint.family)
    merge_into(weights, changes, merged, "original", torch.float32)
    checkpoint = open_checkpoint(merged)
    python = vllm_environment()
    options = ("--enforce-eager", "--max-model-len", str(checkpoint.processor.context_tokens))
    log = tmp_path / "log"
    with serving(python, merged, {}, log, *options, paths=vl2_paths(python)) as client:
        answers = ask_all(client, [("merged", question) for question in QUESTIONS], TOKENS)
    model = create_model(checkpoint).eval()
    wanted = [expected(model, checkpoint, question, TOKENS) for question in QUESTIONS]
    assert [found(answer) for answer in answers] == wanted
    assert len({tuple(answer) for _, answer in wanted}) > len(QUESTIONS) // 2
    record(
        f"vLLM {VLLM} (CPU build), transformers 5.19.0",
        f"merged with `--layout original`, DeepSeek-VL2: the OpenAI endpoint, {len(QUESTIONS)} "
        "requests at once, with the original's patches in the vision tower",
        "the answers of `chat`, token by token",
    )
