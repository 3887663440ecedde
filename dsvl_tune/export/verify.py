"""Whether a written checkpoint answers as base and adapter do.

It is loaded afresh and answers held-out questions; logits and greedy ids are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Prompts
from dsvl_tune.export.write_settings import main_dtype
from dsvl_tune.families.base import Layout
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import ORIGINAL_FOLDER
from dsvl_tune.models.finetuning.adapters import load_trained
from dsvl_tune.models.finetuning.quantization import Quantization

BOUNDS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest logit difference allowed, as a fraction of the logits' spread (standard deviation). In
float32 results differ by the order of additions (1.1e-5 was seen with DoRA on three layers), in 16
bits by the rounding of every weight."""

GREEDY_TOKENS = 16


Answers = tuple[Tensor, list[Tensor]]
"""Logits of every real position [*, vocabulary], and the greedy ids of each row."""


def verify(
    base: Checkpoint,
    adapter: Path,
    written: Checkpoint,
    prompts: Prompts,
    quantization: Quantization | None = None,
) -> dict[str, Any]:
    """Load a written checkpoint afresh and compare it with base + adapter.

    In float32, one model after the other. A checkpoint in transformers' layout is loaded by plain
    transformers, one in the original layout by our own loader.

    Args:
        base: the checkpoint that the adapter was trained on.
        adapter: folder of what was trained.
        written: the merged checkpoint.
        prompts: to answer.
        quantization: of the base while the adapter was trained. How far that model's answers are
            from those of base + adapter is reported, without a bound.

    Raises:
        UserError: the answers differ by more than the bound.
    """
    trained = answer_trained(base, adapter, prompts)
    found = answer(load_written(written), prompts)
    dtype, spread = main_dtype(written.headers.values()), float(trained[0].std())
    report: dict[str, Any] = {
        "layout": written.layout,
        "dtype": dtype,
        "rows": len(found[1]),
        **differences(trained, found),
        "bound": BOUNDS[dtype] * max(1.0, spread),
    }
    if quantization is not None:
        quantized = answer_trained(base, adapter, prompts, quantization)
        report["trained_in_4_bits"] = {
            "quantization": quantization,
            "logit_spread": spread,
            **differences(trained, quantized),
        }
    if not report["max_logit_difference"] <= report["bound"]:
        raise UserError(
            "the written checkpoint does not answer as base + adapter does: largest logit "
            f"difference {report['max_logit_difference']:.3g}, bound {report['bound']:.3g}. "
            "Nothing was kept."
        )
    return report


def answer_trained(
    base: Checkpoint, adapter: Path, prompts: Prompts, quantization: Quantization | None = None
) -> Answers:
    """What base + adapter answers, with the base in 4 bits if `quantization` says so."""
    model = create_model(base, quantization=quantization)
    load_trained(model, adapter)
    return answer(model, prompts)


def differences(one: Answers, two: Answers) -> dict[str, float]:
    """Largest and mean difference of the logits, and the share of rows with equal answers."""
    difference = (one[0] - two[0]).abs()
    alike = [torch.equal(*pair) for pair in zip(one[1], two[1], strict=True)]
    return {
        "max_logit_difference": float(difference.max()),
        "mean_logit_difference": float(difference.mean()),
        "greedy_agreement": sum(alike) / len(alike),
    }


def compare_processors(base: Checkpoint, written: Checkpoint) -> None:
    """A written checkpoint must turn text and pictures into the tokens and pixels of its base.

    Raises:
        UserError: a file of either cannot be used, or they differ.
    """
    before, after = ({**vars(checkpoint.processor)} for checkpoint in (base, written))
    for fields in (before, after):
        fields["tokenizer"] = sorted(fields["tokenizer"].get_vocab().items())
    differing = [field for field in before if before[field] != after[field]]
    if differing:
        raise UserError(
            f"{written.folder}: {', '.join(differing)} would differ from {base.folder}. If its "
            f"settings were changed since it was made, delete its folder {ORIGINAL_FOLDER}/, which "
            "holds the earlier ones. Nothing was kept."
        )


def load_written(written: Checkpoint) -> PreTrainedModel:
    """The written checkpoint in float32, as its users load it.

    Raises:
        UserError: plain transformers reports a missing or unexpected tensor.
    """
    if written.layout == "original":
        return create_model(written)
    plain, loading = AutoModelForImageTextToText.from_pretrained(
        written.folder, dtype=torch.float32, output_loading_info=True
    )
    if loading["missing_keys"] or loading["unexpected_keys"]:
        raise UserError(f"{written.folder}: plain transformers reports {loading}.")
    return plain.eval()


@torch.no_grad()
def answer(model: PreTrainedModel, prompts: Prompts) -> Answers:
    """By transformers' own path."""
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    if prompts.pixel_values is not None:
        inputs["pixel_values"] = prompts.pixel_values[prompts.image_index]
    if prompts.high_res_pixel_values is not None:
        inputs["high_res_pixel_values"] = prompts.high_res_pixel_values[prompts.image_index]
    logits = model(**inputs).logits[prompts.attention_mask.bool()]
    ids = model.generate(**inputs, max_new_tokens=GREEDY_TOKENS, do_sample=False)[
        :, prompts.input_ids.shape[1] :
    ]
    return logits, list(ids)
