"""The tables that `dsvl-tune estimate-memory` prints."""

from __future__ import annotations

from typing import Any

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.dtypes import dtype_of
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, Plan
from dsvl_tune.core.text_table import format_table
from dsvl_tune.families import check_family, open_sizes
from dsvl_tune.models.build import Adaptation, adapted_model
from dsvl_tune.models.finetuning.quantization import quantization_of
from dsvl_tune.training.memory.estimate import Estimate, cached_feature_bytes, estimate
from dsvl_tune.training.memory.fake_step import RowShape, StepBytes

GPUS = (1, 2, 4, 8)


def memory_report(recipe: Any) -> str:
    """Estimate the memory that a recipe needs, as tables.

    Args:
        recipe: Parsed settings, with the command's own options.

    Raises:
        UserError: The options describe a row that the checkpoint cannot have.
    """
    checkpoint = open_sizes(recipe.model.checkpoint)
    check_family(checkpoint, recipe.model.family)
    if recipe.data.init_args.max_tiles is not None:
        most = recipe.data.init_args.max_tiles
        checkpoint.config = checkpoint.family.limit_config(checkpoint.config, most)
    shape = row_shape(recipe, recipe.data.init_args, checkpoint)
    plan, found = estimate_recipe(recipe, checkpoint, shape)
    return report(recipe, checkpoint, plan, shape, found)


def row_shape(options: Any, data: Any, checkpoint: Checkpoint) -> RowShape:
    """The micro-batch on one GPU.

    Args:
        options: the command's own.
        data: init_args of the recipe's data module.
        checkpoint: of the recipe.

    Raises:
        UserError: the images do not fit into a row, more tokens are supervised than there are, or
            the row is longer than the context.
    """
    config = checkpoint.config
    visual = options.images * checkpoint.family.image_cost(config, options.images).tokens
    context = config.get_text_config().max_position_embeddings
    tokens = options.tokens or data.max_tokens or context
    supervised = tokens - visual if options.supervised is None else options.supervised
    if not 0 < supervised <= tokens - visual:
        raise UserError(
            f"--tokens {tokens}, --images {options.images}: images take {visual} tokens of a row, "
            f"so {supervised} supervised ones do not fit. Give more --tokens, or fewer --images or "
            "--supervised."
        )
    if tokens > context:
        raise UserError(
            f"--tokens {tokens}: the checkpoint's context is {context} tokens. Give that or less."
        )
    return RowShape(data.batch_size, tokens, options.images, supervised)


def estimate_recipe(recipe: Any, checkpoint: Checkpoint, shape: RowShape) -> tuple[Plan, Estimate]:
    """The plan for this checkpoint, and what training by it takes."""
    settings = recipe.model
    parts = {part: PartPlan(**vars(how)) for part, how in (settings.parts or {}).items()}
    adaptation = Adaptation(
        preset=settings.preset,
        parts=parts,
        dtype=dtype_of(settings.dtype, "model.dtype"),
        variant=settings.lora_variant,
        dropout=settings.lora_dropout,
    )
    model, plan = adapted_model(checkpoint, adaptation, "shapes")
    return plan, estimate(
        model.train(),
        shape,
        precision=str(recipe.trainer.precision),
        accumulates=recipe.trainer.accumulate_grad_batches > 1,
        quantization=quantization_of(settings.preset, settings.quantization),
        gradient_checkpointing=settings.gradient_checkpointing or True,
    )


def report(
    recipe: Any, checkpoint: Checkpoint, plan: Plan, shape: RowShape, found: Estimate
) -> str:
    """The three tables and the line on the feature cache."""
    checkpointing = bool(recipe.model.gradient_checkpointing)
    cached = cached_feature_bytes(checkpoint.family, checkpoint.config, plan)
    cache = "none, a vision tower is trained"
    if cached is not None:
        cache = f"{cached / 1e6:.2f} MB an image on disk"
    rows = (
        f"{shape.rows} x {shape.tokens:,} tokens, of each row {shape.images} images and "
        f"{shape.supervised:,} supervised tokens"
    )
    return "\n\n".join(
        [
            f"estimated, in GB (10^9 bytes), for {recipe.model.checkpoint}, "
            f"{recipe.trainer.precision}",
            parts_table(plan, found),
            f"a micro-batch of {rows}; pixels {gigabytes(found.pixels)}",
            steps_table(found, checkpointing),
            gpus_table(found, checkpointing),
            f"feature cache: {cache}",
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
    """Each GPU's share of everything, with --trainer.strategy fsdp2 on several.

    With ddp each GPU takes what a single one does.
    """
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
