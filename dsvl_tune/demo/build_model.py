"""An untrained small hybrid DeepSeek-VL: sizes, tokenizer and initial weights.

Classes, names and file layout are those of the published hybrid checkpoint; only the sizes differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from dsvl_tune.demo.init_weights import prepare_weights
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
LOW_SIZE, HIGH_SIZE = 96, 128
"""Input sizes of SigLIP and SAM in px. 96 / 12 = 8, so an image has 8 x 8 = 64 visual tokens."""
MEAN, STD = 0.9, 0.25
"""Pixel normalization of both towers: light backgrounds come out near zero, which small towers
learn from faster."""

# Pre-tokenizer of the published tokenizer.json (deepseek-ai/deepseek-vl-7b-chat): line breaks,
# words with their space, punctuation with its space, Chinese; digits one by one.
SPLITS = (
    r"[\r\n]",
    r"\s?[A-Za-z\u00c0-\u024f]+",
    r"\s?[!-/:-@\[-`{-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"[\u4e00-\u9fa5]+",
)


def build_embedded(
    seed: int, texts: Iterable[str]
) -> tuple[DeepseekVLHybridForConditionalGeneration, PreTrainedTokenizerFast]:
    """An untrained small model and its tokenizer.

    Args:
        seed: of the random weights.
        texts: the tokenizer is trained on them.
    """
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(seed)
    model = DeepseekVLHybridForConditionalGeneration(build_config(tokenizer))
    prepare_weights(model, torch.Generator().manual_seed(seed))
    return model, tokenizer


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with DeepSeek's special tokens; every word of `texts` is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,  # more than the words of the generators need
        special_tokens=[BOS, EOS, IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        additional_special_tokens=[IMAGE_TOKEN],
        chat_template=chat_template(default_system=""),
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> DeepseekVLHybridConfig:
    """The sizes.

    SAM's default initializer_range (1e-10) never leaves zero; 0.08 is about 1 / sqrt(width).
    """
    text: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.06,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    siglip: dict[str, Any] = {
        "model_type": "siglip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": LOW_SIZE,
        "patch_size": 12,
        "vision_use_head": False,
        "hidden_act": "gelu",  # exact as in the original; transformers' default is approximate
    }
    sam: dict[str, Any] = {
        "hidden_size": 128,
        "mlp_dim": 384,
        "output_channels": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": HIGH_SIZE,
        "patch_size": 16,
        "window_size": 4,
        "global_attn_indexes": [1, 2],
        "initializer_range": 0.08,
    }
    return DeepseekVLHybridConfig(
        text_config=text,
        vision_config=siglip,
        high_res_vision_config=sam,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tie_word_embeddings=False,
    )


def image_settings() -> dict[str, Any]:
    """preprocessor_config.json of the small model."""
    return {
        "image_processor_type": "DeepseekVLHybridImageProcessor",
        "processor_class": "DeepseekVLHybridProcessor",
        "size": {"height": LOW_SIZE, "width": LOW_SIZE},
        "high_res_size": {"height": HIGH_SIZE, "width": HIGH_SIZE},
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "high_res_image_mean": [MEAN] * 3,
        "high_res_image_std": [STD] * 3,
        "resample": 2,
        "high_res_resample": 3,
        "min_size": 14,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
    }


def save_checkpoint(
    folder: Path,
    model: DeepseekVLHybridForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a complete checkpoint in transformers' layout."""
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(image_settings(), indent=2) + "\n", encoding="utf-8"
    )
    processor = {
        "processor_class": "DeepseekVLHybridProcessor",
        "num_image_tokens": (LOW_SIZE // 12) ** 2,
    }
    (folder / "processor_config.json").write_text(
        json.dumps(processor, indent=2) + "\n", encoding="utf-8"
    )
