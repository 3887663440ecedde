"""The plan of a run: which parts of a model are frozen, fully trained or adapted.

A plan is data: part -> `PartPlan`. The presets are a family's plans with names; a recipe overrides
any part of one.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.family import Family, PartPlan, Plan, part_of
from dsvl_tune.families import family_of_model


def part_names(model: PreTrainedModel) -> list[str]:
    """The parts that a model has, in the family's order, those that are carried too."""
    parts = family_of_model(model).parts
    present = {part_of(name, parts) for name, _ in model.named_parameters()}
    return [part for part, described in parts.items() if part in present or described.carried]


def make_plan(family: Family, preset: str, overrides: Mapping[str, PartPlan] | None) -> Plan:
    """A preset with some parts replaced, every part that neither names frozen.

    Args:
        family: of the checkpoint.
        preset: name of one of its plans.
        overrides: parts that the user named.

    Raises:
        UserError: there is no such preset or part, a part without linear layers is to have LoRA, or
            a carried one is to train.
    """
    parts, overrides = family.parts, overrides or {}
    if preset not in family.presets:
        raise unknown_name("model.preset", preset, family.presets)
    for name, plan in overrides.items():
        if name not in parts:
            raise UserError(f"model.parts: {unknown_name('part', name, parts)}")
        if plan.mode != "frozen" and parts[name].carried:
            raise UserError(
                f"model.parts: {name} cannot be trained ({plan.mode}): no step here uses it, so it "
                "would get no gradient. It goes unchanged into every export; use mode frozen or "
                "leave it out."
            )
        if plan.mode == "lora" and parts[name].lora_targets is None:
            possible = [part for part, described in parts.items() if described.lora_targets]
            raise UserError(
                f"model.parts: {name} cannot have lora (convolutions, embeddings, bare tensors). "
                f"Use mode full or frozen; lora fits {', '.join(possible)}."
            )
    chosen = {**family.presets[preset], **overrides}
    return {part: chosen.get(part, PartPlan()) for part in parts}


def fit_plan(plan: Plan, model: PreTrainedModel, overridden: set[str]) -> Plan:
    """The plan for the parts that a model has.

    A preset serves all models of a family, so what it plans for an optional part is ignored where a
    model lacks it; a user override is an error.

    Args:
        plan: from `make_plan`.
        model: of the checkpoint.
        overridden: parts that the user named.

    Raises:
        UserError: the user named a part that this model lacks, or nothing would train.
    """
    family, present = family_of_model(model), part_names(model)
    for part in sorted(overridden - set(present)):
        if plan[part].mode != "frozen" and family.parts[part].optional:
            raise UserError(
                f"model.parts: this checkpoint has no {part}, which only some {family.name} models "
                f"have; its parts are {', '.join(present)}."
            )
    fitted = {part: plan[part] for part in present}
    if all(part.mode == "frozen" for part in fitted.values()):
        raise UserError(
            "model.parts: every part is frozen, so nothing would be trained. Give a part mode full "
            "or lora."
        )
    return fitted
