"""Merge what a run trained into its base checkpoint, and verify the result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.checksums import write_sums
from dsvl_tune.core.checkpoint.hub import public_name
from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Layout, part_of
from dsvl_tune.core.storage.files import atomic_folder, write_json
from dsvl_tune.core.types import Prompts
from dsvl_tune.export.audit import write_audit
from dsvl_tune.export.merge_adapter import apply_changes, check_changes, merge_into, read_changes
from dsvl_tune.export.model_card import write_card
from dsvl_tune.export.run_card import (
    CURVES,
    CardOptions,
    eval_results,
    run_sections,
    summary_sentence,
)
from dsvl_tune.export.verify import compare_processors, verify
from dsvl_tune.export.write_settings import REPORT, main_dtype
from dsvl_tune.export.write_weights import compare_weights
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.weights import Weights

MergeDtype = Literal["base", "float32", "bfloat16", "float16"]


def merge_run(
    run: Path,
    base: Checkpoint,
    adapter: Path,
    out: Path,
    *,
    layout: Layout,
    dtype: MergeDtype,
    prompts: Prompts | None,
    base_is_the_runs: bool,
    checkpoint: str | None,
    card: CardOptions,
) -> dict[str, Any]:
    """Write a merged checkpoint with its model card, report and checksums; complete or absent.

    Args:
        run: Folder of the run.
        base: Base checkpoint to merge into.
        adapter: Folder of what the run trained.
        out: Folder to write; it must not exist yet.
        layout: Layout to write.
        dtype: Of the written weights; "base" keeps the base's own.
        prompts: Questions that base + adapter and the result must answer alike; None skips this.
        base_is_the_runs: Whether the run was trained from these very weights, for the report.
        checkpoint: Run checkpoint that `adapter` is of, for the report; None for the run's result.
        card: What the model card shows.

    Returns:
        Content of `merge_report.json`.

    Raises:
        UserError: The adapter does not fit the base, or the result differs from what it should be.
    """
    with atomic_folder(out) as partial:
        changed = _write_weights(base, adapter, partial, layout, dtype)
        written = open_checkpoint(partial)
        report = {"layout": layout, "dtype": main_dtype(written.headers.values()), "rows": 0}
        if prompts is not None:
            quantization = read_json(run / "manifest.json").get("quantization")
            report |= verify(base, adapter, written, prompts, quantization)
        parts = base.family.parts
        report |= {
            "base": base.name if card.paths else public_name(base.name),
            "base_is_the_runs": base_is_the_runs,
            "checkpoint": checkpoint,
            "changed_tensors": dict(Counter(part_of(name, parts) for name in changed)),
        }
        write_json(partial / REPORT, report)
        write_audit(partial, run, report, paths=card.paths)
        if card.curves:
            (partial / CURVES).write_bytes(card.curves)
        write_card(
            written,
            base,
            run_sections(run, report, card),
            summary=summary_sentence(run, base.name),
            results=eval_results(run, report),
        )
        write_sums(partial)
    return report


def is_base_of(run: Path, base: Checkpoint) -> bool:
    """Whether a run was trained from a checkpoint's weight files, bit for bit.

    Args:
        run: Folder of the run, whose `manifest.json` has the hashes.
        base: The checkpoint.
    """
    trained_from: dict[str, str] = read_json(run / "manifest.json")["checkpoint"]["sha256"]
    return base.weight_hashes == trained_from


def check_base(run: Path, base: Checkpoint) -> None:
    """Raise unless a run was trained from a checkpoint's weight files.

    Args:
        run: Folder of the run.
        base: The checkpoint.

    Raises:
        UserError: It was trained from others.
    """
    if not is_base_of(run, base):
        raise UserError(
            f"{base.folder}: its weights are not those that {run} was trained from (manifest.json "
            "has their hashes). Give the right checkpoint with --base."
        )


def _write_weights(
    base: Checkpoint, adapter: Path, target: Path, layout: Layout, dtype: MergeDtype
) -> list[str]:
    """Write the weights and settings of the merged checkpoint, and read them back.

    Returns:
        Names of the tensors that differ from the base's.
    """
    weights = Weights(base)
    changes = read_changes(adapter, base.family, weights.shapes)
    check_changes(weights, changes)
    torch_dtype = None if dtype == "base" else DTYPES[dtype]
    merge_into(weights, changes, target, layout, torch_dtype)
    written = open_checkpoint(target)
    compare_processors(base, written)
    return compare_weights(weights, Weights(written), apply_changes(changes), torch_dtype)
