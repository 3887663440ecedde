"""Whether a written checkpoint is base + adapter.

It is compared tensor by tensor, and loaded afresh to answer held-out questions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoModelForImageTextToText, PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Prompts
from dsvl_tune.export.write_settings import main_dtype
from dsvl_tune.export.write_weights import is_rounded, pieces
from dsvl_tune.families import family_of_model
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import ORIGINAL_FOLDER, Weights
from dsvl_tune.models.finetuning.adapters import load_trained
from dsvl_tune.models.finetuning.quantization import Quantization
from dsvl_tune.models.finetuning.trained_files import base_name
from dsvl_tune.models.float64 import in_float64
from dsvl_tune.models.runtime.finite_outputs import nonfinite_error

LIMIT = 0.05
"""What noise may explain at most, as a fraction of the logits' spread (standard deviation). Beyond
it a merge is refused even if rounding alone is to blame: what was written is then not the model
that was trained."""

FLOAT64_SHARE = 2.0**-20
"""Float64 has the noise of float32 times 2^-29, the ratio of their epsilons; 2^9 is for safety.
Measured: the difference was 3,000 times below the bound."""

NOISE_FACTOR = 10
"""Mean float32 noise differs by a factor of 2 between rows (measured on the embedded model)."""

ROUNDING_FACTOR = 2
"""The other neighbor is 3 times as far as the nearest on average. Measured over single rows and
all dtypes: its logits were 2.1 to 3.2 times as far in the mean (but 0.5 to 4.7 times in the
maximum)."""

EXACT_ROWS = 2
"""Prompts to compute in float64: a wrong weight shows in the tensors, a wrong setting in any
row."""

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

    One model is in memory at a time. A checkpoint in transformers' layout is loaded by plain
    transformers, one in the original layout by our own loader.

    Float32 logits depend on the order of additions; how much depends on the model and the machine.
    So they are reported, and bounded in the mean, but they do not decide alone:

    - Every written tensor is what peft's own merge gives in float64, rounded once (`is_rounded`).
    - In float64, the loaded checkpoint answers as the model that was given the written tensors. The
      bound is the float32 noise of this model on this machine (the same weights in float32 and in
      float64), scaled to float64.
    - In float64, it is no further from base + adapter than rounding explains, which is measured on
      the same weights rounded to their other neighbors.

    One layer of a model at a time is in float64.

    Args:
        base: the checkpoint that the adapter was trained on.
        adapter: folder of what was trained.
        written: the merged checkpoint.
        prompts: to answer.
        quantization: of the base while the adapter was trained. How far that model's answers are
            from those of base + adapter is reported, without a bound.

    Raises:
        UserError: a tensor is not the trained one, or the answers differ by more than a bound.
    """
    expected = answers_of_trained(base, adapter, Weights(written), prompts)
    model = load_written(written)
    found = answer(model, prompts)
    exact = exact_logits(model, first_rows(prompts, EXACT_ROWS))
    del model
    report = {
        "layout": written.layout,
        "dtype": main_dtype(written.headers.values()),
        **measured(expected, found, exact),
    }
    if quantization is not None:
        model = load_trained_model(base, adapter, quantization)
        report["trained_in_4_bits"] = {
            "quantization": quantization,
            "logit_spread": float(expected.answers[0].std()),
            **differences(expected.answers, answer(model, prompts)),
        }
    check(report)
    return report


class Expected(NamedTuple):
    """What base + adapter answer; logits in float64 are of the first `EXACT_ROWS` prompts.

    Attributes:
        answers: in float32, of every prompt.
        exact: [*, vocabulary] float64.
        other: likewise, with the written weights rounded to their other neighbors.
        written: likewise, with the weights that were written.
    """

    answers: Answers
    exact: Tensor
    other: Tensor
    written: Tensor


def answers_of_trained(
    base: Checkpoint, adapter: Path, weights: Weights, prompts: Prompts
) -> Expected:
    """Answer by base + adapter, and by what was written of them.

    Args:
        base: the checkpoint that the adapter was trained on.
        adapter: folder of what was trained.
        weights: what was written.
        prompts: to answer.

    Raises:
        UserError: a written tensor is not the trained one, rounded once.
    """
    model = load_trained_model(base, adapter)
    answers = answer(model, prompts)
    exact_prompts = first_rows(prompts, EXACT_ROWS)
    exact = exact_logits(model, exact_prompts)
    take_other_neighbors(model, weights)
    other = exact_logits(model, exact_prompts)
    take_written(model, weights)
    return Expected(answers, exact, other, exact_logits(model, exact_prompts))


def measured(expected: Expected, found: Answers, exact: Tensor) -> dict[str, Any]:
    """Differences of a written checkpoint from what it should answer, and their bounds.

    Args:
        expected: from base + adapter.
        found: answers of the written checkpoint in float32.
        exact: its logits [*, vocabulary] float64 of the first `EXACT_ROWS` prompts.
    """
    spread, noise = float(expected.exact.std()), found[0][: len(exact)] - exact
    limit, rounding = LIMIT * spread, mean(expected.other - expected.exact)
    reload_bound = FLOAT64_SHARE * min(largest(noise), limit)
    return {
        "rows": len(found[1]),
        **differences(expected.answers, found),
        "mean_bound": min(NOISE_FACTOR * mean(noise) + ROUNDING_FACTOR * rounding, limit),
        "logit_spread": spread,
        "float32_noise": {"max": largest(noise), "mean": mean(noise)},
        "float64": {
            "rows": min(EXACT_ROWS, len(found[1])),
            "max_logit_difference": largest(exact - expected.exact),
            "mean_logit_difference": mean(exact - expected.exact),
            "mean_bound": min(ROUNDING_FACTOR * rounding + reload_bound, limit),
            "reload_difference": largest(exact - expected.written),
            "reload_bound": reload_bound,
        },
    }


def check(report: dict[str, Any]) -> None:
    """Compare the differences of a report with its bounds.

    Raises:
        UserError: one is above its bound, or not a number.
    """
    exact = report["float64"]
    for what, difference, bound in (
        (
            "load as it was written: largest float64",
            exact["reload_difference"],
            exact["reload_bound"],
        ),
        (
            "answer as base + adapter: mean float64",
            exact["mean_logit_difference"],
            exact["mean_bound"],
        ),
        (
            "answer as base + adapter: mean float32",
            report["mean_logit_difference"],
            report["mean_bound"],
        ),
    ):
        if not difference <= bound:
            noise, spread = report["float32_noise"]["mean"], report["logit_spread"]
            raise UserError(
                f"the written checkpoint does not {what} logit difference {difference:.3g}, bound "
                f"{bound:.3g} (this model's float32 noise on this machine: mean {noise:.3g}; "
                f"spread of its logits: {spread:.3g}). Nothing was kept."
            )


def load_trained_model(
    base: Checkpoint, adapter: Path, quantization: Quantization | None = None
) -> PreTrainedModel:
    """Base + adapter, unmerged; in float32, or with the base quantized."""
    model = create_model(base, quantization=quantization)
    load_trained(model, adapter)
    return model


def take_other_neighbors(model: PreTrainedModel, weights: Weights) -> None:
    """Compare every written tensor with the model's, then take that tensor rounded the other way.

    The exact value of a weight is between two of the written dtype. The nearer one is what merging
    writes; the farther one shows how much rounding alone can move this model's answers.

    Args:
        model: base + adapter; peft merges its adapters, in float64 and a layer at a time.
        weights: what was written.

    Raises:
        UserError: a tensor is not the model's, rounded once to the dtype of its file.
    """
    for name, parameter in base_parameters(model).items():
        exact, written = exact_weight(model, name, parameter), weights.read(name)
        if not is_rounded(exact, written):
            raise UserError(
                f"{weights.checkpoint.folder}: tensor {name} is not what peft makes of base and "
                "adapter, rounded once. Nothing was kept."
            )
        parameter.data = other_neighbor(exact, written).float()


def take_written(model: PreTrainedModel, weights: Weights) -> None:
    """Give a model that `take_other_neighbors` merged the written weights."""
    for name, parameter in base_parameters(model).items():
        parameter.data = weights.read(name).float()


def base_parameters(model: PreTrainedModel) -> dict[str, Parameter]:
    """The parameters that a written checkpoint has, by their names there; tied ones once."""
    return {
        base_name(name): parameter
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }


def exact_weight(model: PreTrainedModel, name: str, parameter: Parameter) -> Tensor:
    """A weight as the model has it, with its adapter merged by peft's own code.

    Args:
        model: with unmerged adapters on this layer, if any; merged afterwards.
        name: of the weight in a checkpoint.
        parameter: that holds it.

    Returns:
        [...]: float64 where there was an adapter, else float32.
    """
    module, _, leaf = name.rpartition(".")
    layer: Any = model.get_submodule(module)
    while isinstance(layer, ParamWrapper) and layer.parameter_name != leaf:
        layer = layer.base_layer  # the wrappers of other parameters of the module are outside
    if not (isinstance(layer, LoraLayer) and (leaf == "weight" or isinstance(layer, ParamWrapper))):
        return parameter.data
    layer.double()
    layer.merge()
    exact = parameter.data
    layer.float()
    return exact


def other_neighbor(exact: Tensor, written: Tensor) -> Tensor:
    """The value of the written dtype on the other side of the exact one.

    Args:
        exact: [...], float64 or float32.
        written: [...], the nearest value in its dtype.

    Returns:
        [...], of the written dtype; equal to `written` where nothing was rounded.
    """
    integer = {4: torch.int32, 2: torch.int16}[written.element_size()]
    parts = []
    for wanted, found in zip(pieces(exact), pieces(written), strict=True):
        # without the sign, the bits of a value count up from zero
        up = (wanted.abs() > found.abs()) | (found == 0)
        step = torch.where(up, 1, -1) * (wanted != found)
        parts.append((found.view(integer) + step.to(integer)).view(found.dtype))
    return torch.cat(parts).view(written.shape)


def differences(one: Answers, two: Answers) -> dict[str, float]:
    """Largest and mean difference of the logits, and the fraction of rows with equal answers."""
    difference = one[0] - two[0]
    alike = [torch.equal(*pair) for pair in zip(one[1], two[1], strict=True)]
    return {
        "max_logit_difference": largest(difference),
        "mean_logit_difference": mean(difference),
        "greedy_agreement": sum(alike) / len(alike),
    }


def largest(difference: Tensor) -> float:
    """Largest absolute value of [...], any floating dtype; NaN where there is one."""
    return float(difference.abs().max())


def mean(difference: Tensor) -> float:
    """Mean absolute value of [...], any floating dtype.

    One ill-conditioned token moves it less than the largest.
    """
    return float(difference.abs().mean())


def compare_processors(base: Checkpoint, written: Checkpoint) -> None:
    """A written checkpoint must turn text and images into the tokens and pixels of its base.

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
    """Logits and greedy answers by the model's own forward and generate.

    Args:
        model: in eval mode.
        prompts: on the model's device, with normalized vision inputs.

    Raises:
        UserError: logits are not finite.
    """
    inputs = inputs_of(model, prompts)
    logits = model(**inputs).logits[prompts.attention_mask.bool()]
    if not bool(logits.isfinite().all()):
        raise nonfinite_error("logits of the merged model are", model, lambda: model(**inputs))
    ids = model.generate(**inputs, max_new_tokens=GREEDY_TOKENS, do_sample=False)
    return logits, list(ids[:, prompts.input_ids.shape[1] :])


@torch.no_grad()
def exact_logits(model: PreTrainedModel, prompts: Prompts) -> Tensor:
    """Logits [*, vocabulary] float64 of every real position, by the model's own forward."""
    inputs = inputs_of(model, prompts)
    pixels = {name: x.double() for name, x in inputs.items() if x.is_floating_point()}
    with in_float64(model):
        logits: Tensor = model(**{**inputs, **pixels}).logits
    return logits[prompts.attention_mask.bool()]


def inputs_of(model: PreTrainedModel, prompts: Prompts) -> dict[str, Tensor]:
    """The model's keyword arguments, with an image for every slot.

    Token ids and mask are [B, T] int64, vision inputs float32 by name.
    """
    images = family_of_model(model).forward_inputs(prompts.vision_inputs, prompts.image_index)
    return {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask, **images}


def first_rows(prompts: Prompts, rows: int) -> Prompts:
    """The first prompts, with the images that they show."""
    slots = sum(prompts.image_counts[:rows])
    return replace(
        prompts,
        input_ids=prompts.input_ids[:rows],
        attention_mask=prompts.attention_mask[:rows],
        image_index=prompts.image_index[:slots],
        vision_inputs=prompts.vision_inputs if slots else {},
    )
