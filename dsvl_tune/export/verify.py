"""Whether a written checkpoint answers as base and adapter do: loaded afresh, held-out rows, logits and greedy ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Prompts
from dsvl_tune.export.write_settings import main_dtype
from dsvl_tune.export.write_weights import Layout
from dsvl_tune.families import family_of_model
from dsvl_tune.families.deepseek_vl.processor import load_processor
from dsvl_tune.models.checkpoint.load import load_model
from dsvl_tune.models.checkpoint.weights import ORIGINAL_FOLDER
from dsvl_tune.models.finetuning.adapters import load_trained
from dsvl_tune.models.finetuning.quantization import Quantization

# Largest logit difference allowed, as a share of the logits' spread (standard deviation): float32 differs by the
# order of additions (1.1e-5 was seen with DoRA on three layers), 16 bits by the rounding of every weight.
BOUNDS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
GREEDY_TOKENS = 16


Answers = tuple[Tensor, list[Tensor]]
"""Logits of every real position [*, vocabulary], and the greedy ids of each row."""


def verify(
    base: Path,
    adapter: Path,
    written: Path,
    layout: Layout,
    prompts: Prompts,
    quantization: Quantization | None = None,
) -> dict[str, Any]:
    """Load a written checkpoint afresh and compare it with base + adapter, in float32, one model after the other.

    A checkpoint in transformers' layout is loaded by plain transformers, one in the original layout by our own loader.

    Args:
        base, adapter, written: folders. layout: of the written one. prompts: to answer.
        quantization: of the base while the adapter was trained. How far that model's answers are from those of base +
            adapter is reported; no bound holds it.

    Raises:
        UserError: they do not answer alike.
    """
    trained = answer_trained(base, adapter, prompts)
    found = answer(load_written(written, layout), prompts)
    dtype, spread = main_dtype(written), float(trained[0].std())
    report: dict[str, Any] = {
        **{"layout": layout, "dtype": dtype, "rows": len(found[1])},
        **differences(trained, found),
        "bound": BOUNDS[dtype] * max(1.0, spread),
    }
    if quantization is not None:
        quantized = answer_trained(base, adapter, prompts, quantization)
        report["trained_in_4_bits"] = {
            **{"quantization": quantization, "logit_spread": spread},
            **differences(trained, quantized),
        }
    if not report["max_logit_difference"] <= report["bound"]:
        raise UserError(
            "the written checkpoint does not answer as base + adapter does: largest logit difference "
            f"{report['max_logit_difference']:.3g}, bound {report['bound']:.3g}. Nothing was kept."
        )
    return report


def answer_trained(
    base: Path, adapter: Path, prompts: Prompts, quantization: Quantization | None = None
) -> Answers:
    """What base + adapter answers, with the base in 4 bits if it is said so."""
    model = load_model(base, quantization=quantization)
    load_trained(model, adapter)
    return answer(model, prompts)


def differences(one: Answers, two: Answers) -> dict[str, float]:
    """Largest and mean difference of the logits, and the share of rows with the same greedy answer."""
    difference = (one[0] - two[0]).abs()
    alike = [torch.equal(*pair) for pair in zip(one[1], two[1], strict=True)]
    return {
        "max_logit_difference": float(difference.max()),
        "mean_logit_difference": float(difference.mean()),
        "greedy_agreement": sum(alike) / len(alike),
    }


def compare_processors(base: Path, written: Path) -> None:
    """A written checkpoint must turn text and pictures into the same tokens and pixels as its base.

    Raises:
        UserError: a file of either cannot be used, or they differ.
    """
    processors = [load_processor(folder) for folder in (base, written)]
    before, after = (
        {**vars(processor), "tokenizer": sorted(processor.tokenizer.get_vocab().items())}
        for processor in processors
    )
    differing = [field for field in before if before[field] != after[field]]
    if differing:
        raise UserError(
            f"{written}: {', '.join(differing)} would not be what {base} has. If its settings were changed since it "
            f"was made, delete its folder {ORIGINAL_FOLDER}/, which holds the ones of before. Nothing was kept."
        )


def load_written(folder: Path, layout: Layout) -> PreTrainedModel:
    """The written checkpoint in float32, as whoever gets it would load it.

    Raises:
        UserError: plain transformers reports a missing or unexpected tensor.
    """
    if layout == "original":
        return load_model(folder)
    plain, loading = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    if loading["missing_keys"] or loading["unexpected_keys"]:
        raise UserError(f"{folder}: plain transformers reports {loading}.")
    return plain.eval()


@torch.no_grad()
def answer(model: PreTrainedModel, prompts: Prompts) -> Answers:
    """Logits and greedy answers by the model's own forward and generate.

    Args:
        model: in eval mode.
        prompts: on the model's device, with normalized vision inputs.
    """
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    inputs |= family_of_model(model).forward_inputs(prompts.vision_inputs, prompts.image_index)
    logits = model(**inputs).logits[prompts.attention_mask.bool()]
    ids = model.generate(**inputs, max_new_tokens=GREEDY_TOKENS, do_sample=False)
    return logits, list(ids[:, prompts.input_ids.shape[1] :])
