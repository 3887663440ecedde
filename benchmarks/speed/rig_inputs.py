"""Inputs of the benchmarks: random models of the published token geometry, and charts as files.

    python benchmarks/speed/rig_inputs.py FOLDER

writes FOLDER/vocabulary and FOLDER/proportions (checkpoints), FOLDER/one and FOLDER/four
(`charts.openai.jsonl` with images: one and four questions per image). An image has 576 tokens for
the decoder and 4096 for SAM.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration

from dsvl_tune.core.types import Conversation, ImageRef
from dsvl_tune.demo.build_model import build_tokenizer
from dsvl_tune.demo.charts import chart_row

# 24 layers (as in the 1.3B) of width 256 have 19 million weights. With the published vocabulary the
# head has 1.4 times as many; with 8192 tokens a ninth, similar to the published models (1.3B: a
# sixth, 7B: a fourteenth).
VOCABULARY = {"vocabulary": 102_400, "proportions": 8_192}
DECODER = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "image_size": 384,
    "patch_size": 16,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "vision_use_head": False,
}
SAM = {
    "model_type": "sam_vision_model",
    "image_size": 1024,
    "patch_size": 16,
    "hidden_size": 128,
    "mlp_dim": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "output_channels": 256,
    "window_size": 14,
    "global_attn_indexes": [2],  # a third of the layers, as in SAM-B
}
# preprocessor_config.json as transformers' converter writes it for the published hybrid
IMAGES = {
    "image_processor_type": "DeepseekVLHybridImageProcessor",
    "processor_class": "DeepseekVLHybridProcessor",
    "size": {"height": 384, "width": 384},
    "high_res_size": {"height": 1024, "width": 1024},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 2,
    "high_res_resample": 3,
    "min_size": 14,
    "high_res_image_mean": [0.48145466, 0.4578275, 0.40821073],
    "high_res_image_std": [0.26862954, 0.26130258, 0.27577711],
}
ENLARGED = 5
"""Generated charts are 128 to 144 px wide; 640 to 720 px cost about as much as a screenshot."""


def write_checkpoint(
    folder: Path, vocabulary: int, texts: list[str], **sizes: dict[str, Any]
) -> None:
    """Write a random hybrid in which every part contributes, with a tokenizer of `texts`."""
    tokenizer = build_tokenizer(texts)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    decoder = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        **DECODER,
    }
    config = DeepseekVLHybridConfig(
        text_config={
            **decoder,
            **sizes.get("decoder", {}),
            **special,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**SIGLIP, **sizes.get("siglip", {})},
        high_res_vision_config={
            **SAM,
            **sizes.get("sam", {}),
            "initializer_range": 0.02,  # transformers: 1e-10
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    model = DeepseekVLHybridForConditionalGeneration(config)
    with torch.no_grad():
        # The initial value 0 would switch SAM's second branch off.
        model.model.high_res_vision_alpha.fill_(0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["image_token"] = "<image_placeholder>"  # for transformers' processor
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES, indent=2), encoding="utf-8")
    processor = {"processor_class": "DeepseekVLHybridProcessor", "num_image_tokens": 576}
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def square_charts(questions: int) -> Iterator[list[Conversation]]:
    """Endless square charts: for other shapes, transformers rounds where the original truncates."""
    kinds = ("upright", "lying", "grouped", "line", "pie")
    rows = (chart_row(seed, "train", kinds, questions) for seed in count())
    for row in rows:
        width, height = picture(row[0]).size
        if width == height and len(row) == questions:
            yield row


def picture(conversation: Conversation) -> Image.Image:
    """Return the image of a conversation."""
    (ref,) = conversation.images
    assert isinstance(ref.content, Image.Image)
    return ref.content


def write_charts(folder: Path, images: int, questions: int) -> None:
    """`charts.openai.jsonl`: the questions on an image stand together."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(islice(square_charts(questions), images)):
        name = f"images/{number:04d}.png"
        width, height = picture(row[0]).size
        picture(row[0]).resize(
            (width * ENLARGED, height * ENLARGED), Image.Resampling.BICUBIC
        ).save(folder / name)
        lines += [
            json.dumps({"messages": messages(conversation), "images": [name]})
            for conversation in row
        ]
    (folder / "charts.openai.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as OpenAI messages."""
    parts = [
        ["<image>" if isinstance(part, ImageRef) else part for part in turn.parts]
        for turn in conversation.turns
    ]
    return [
        {"role": turn.role, "content": "".join(text)}
        for turn, text in zip(conversation.turns, parts, strict=True)
    ]


def write_inputs(folder: Path, rows: int = 32) -> None:
    """Write both checkpoints and both data sets."""
    texts = [
        turn["content"]
        for row in islice(square_charts(4), 200)
        for one in row
        for turn in messages(one)
    ]
    for name, vocabulary in VOCABULARY.items():
        write_checkpoint(folder / name, vocabulary, texts)
    write_charts(folder / "one", rows, questions=1)
    write_charts(folder / "four", rows // 4, questions=4)


if __name__ == "__main__":
    write_inputs(Path(sys.argv[1]))
