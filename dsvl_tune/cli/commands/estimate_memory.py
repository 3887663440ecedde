"""`dsvl-tune estimate-memory --config RECIPE`: what a recipe's training takes, without loading weights."""

from __future__ import annotations

from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt
from transformers import PretrainedConfig

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.text_table import format_table
from dsvl_tune.families.deepseek_vl.parts import PartPlan, Plan, fit_plan, make_plan
from dsvl_tune.models.checkpoint.outline import outline_model, read_outline
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.quantization import quantization_of
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.memory.estimate import Estimate, estimate, stored_feature_bytes
from dsvl_tune.training.memory.fake_step import RowShape, StepBytes
from dsvl_tune.training.module import torch_dtype

GPUS = (1, 2, 4, 8)
DESCRIPTION = """\
estimate-memory: what a recipe's training takes, part by part, on 1, 2, 4 and 8 GPUs, without loading weights

  dsvl-tune estimate-memory --config deepseek_vl_7b_chat_lora
  dsvl-tune estimate-memory --config mine.yaml --tokens 900 --supervised 120

Of the checkpoint only config.json and the headers of its files are read (of a hub name too). Activations are those of
the step itself, run on tensors without storage. Each row is taken as long as data.max_tokens (or the checkpoint's
context) allows, all of it but images supervised: the most it can be. `dsvl-tune check-data` shows how long yours are. Not
counted: CUDA's own half gigabyte, unused blocks of its allocator, generation of answers. All keys of a recipe can be
given, as with fit."""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = recipe_parser("estimate-memory", DESCRIPTION)
    parser.add_argument(
        "--tokens",
        type=PositiveInt | None,
        help="tokens of a row, images' too (default: the most allowed)",
    )
    parser.add_argument(
        "--images", type=NonNegativeInt, default=1, help="images of a row, all different"
    )
    parser.add_argument(
        "--supervised",
        type=PositiveInt | None,
        help="supervised tokens of a row (default: all but images')",
    )
    recipe = Recipe.parse(parser, arguments).config
    config = read_outline(recipe.model.checkpoint)
    shape = row_shape(recipe, recipe.data.init_args, config)
    plan, found = estimate_recipe(recipe, config, shape)
    print(report(recipe, config, plan, shape, found))


def row_shape(options: Any, data: Any, config: PretrainedConfig) -> RowShape:
    """The micro-batch on one GPU.

    Raises:
        UserError: the images do not fit into a row, more is supervised than there is, or the row is beyond the context.
    """
    visual = (
        options.images * (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    )
    context = config.text_config.max_position_embeddings
    tokens = options.tokens or data.max_tokens or context
    supervised = tokens - visual if options.supervised is None else options.supervised
    if not 0 < supervised <= tokens - visual:
        raise UserError(
            f"--tokens {tokens}, --images {options.images}: images take {visual} tokens of a row, so {supervised} supervised "
            "ones do not fit. Give more --tokens, or fewer --images or --supervised."
        )
    if tokens > context:
        raise UserError(
            f"--tokens {tokens}: the checkpoint's context is {context} tokens. Give that or less."
        )
    return RowShape(data.batch_size, tokens, options.images, supervised)


def estimate_recipe(
    recipe: Any, config: PretrainedConfig, shape: RowShape
) -> tuple[Plan, Estimate]:
    """The plan for this checkpoint, and what training by it takes."""
    settings = recipe.model
    parts = {part: PartPlan(**vars(how)) for part, how in (settings.parts or {}).items()}
    model = outline_model(config, torch_dtype(settings.dtype))
    plan = fit_plan(make_plan(settings.preset, parts), model, set(parts))
    apply_plan(model, plan, settings.lora_variant, settings.lora_dropout)
    accumulates = recipe.trainer.accumulate_grad_batches > 1
    quantization = quantization_of(settings.preset, settings.quantization)
    checkpointed = settings.gradient_checkpointing or True
    return plan, estimate(
        model, shape, str(recipe.trainer.precision), accumulates, quantization, checkpointed
    )


def report(
    recipe: Any, config: PretrainedConfig, plan: Plan, shape: RowShape, found: Estimate
) -> str:
    """The three tables and the store's line."""
    checkpointing = bool(recipe.model.gradient_checkpointing)
    stored = stored_feature_bytes(config, plan)
    rows = f"{shape.rows} x {shape.tokens:,} tokens, of each row {shape.images} images and {shape.supervised:,} supervised tokens"
    return "\n\n".join(
        [
            f"estimated, in GB (10^9 bytes), for {recipe.model.checkpoint}, {recipe.trainer.precision}",
            parts_table(plan, found),
            f"a micro-batch of {rows}; pixels {gigabytes(found.pixels)}\n\n{steps_table(found, checkpointing)}",
            gpus_table(found, checkpointing),
            "feature store: "
            + (
                f"{stored / 1e6:.2f} MB an image on disk"
                if stored
                else "none, a vision tower is trained"
            ),
        ]
    )


def parts_table(plan: Plan, found: Estimate) -> str:
    """Weights, gradients and optimizer state of each part."""
    head = ["part", "mode", "parameters", "trained", "weights", "gradients", "AdamW"]
    rows = [
        [part, plan[part].mode, f"{own.parameters:,}", f"{own.trained:,}", *map(gigabytes, own[2:])]
        for part, own in found.parts.items()
    ]
    sums = [sum(column) for column in zip(*found.parts.values(), strict=True)]
    total = ["total", "", *(f"{count:,}" for count in sums[:2]), *map(gigabytes, sums[2:])]
    return format_table(head, [*rows, total])


def steps_table(found: Estimate, checkpointing: bool) -> str:
    """What is kept for the backward pass by whom, and the peak."""
    head = [
        "gradient checkpointing",
        "vision",
        "language model",
        "head and loss",
        "peak of the step",
    ]

    def row(name: str, used: bool, step: StepBytes) -> list[str]:
        return [f"{name}{', as in the recipe' if used else ''}", *map(gigabytes, step)]

    return format_table(
        head,
        [row("off", not checkpointing, found.plain), row("on", checkpointing, found.checkpointed)],
    )


def gpus_table(found: Estimate, checkpointing: bool) -> str:
    """A GPU's share of everything: --trainer.strategy fsdp2 where there are several. With ddp each is as one alone."""
    head = [
        "GPUs",
        "weights",
        "gradients",
        "AdamW",
        "gathered",
        "pixels and step",
        "each GPU",
        "with checkpointing",
    ]
    head[-1] += " off" if checkpointing else " on"
    rows = []
    for gpus in GPUS:
        gathered = found.gathered if gpus > 1 else 0.0
        sizes = [*found.kept(gpus), gathered, found.pixels + found.step(gpus, checkpointing)]
        sizes += [found.total(gpus, checkpointing), found.total(gpus, not checkpointing)]
        rows.append([str(gpus), *map(gigabytes, sizes)])
    return format_table(head, rows)


def gigabytes(size: float) -> str:
    """10^9 bytes with two digits."""
    return f"{size / 1e9:.2f}"
