"""Write a checkpoint in the other layout; nothing is lost."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.core.checkpoint.checksums import (
    check_sums,
    is_written_checkpoint,
    read_sums,
    write_sums,
)
from dsvl_tune.core.family import Layout
from dsvl_tune.core.storage.files import atomic_folder
from dsvl_tune.core.storage.outputs import check_output_folder
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.export.model_card import write_card
from dsvl_tune.export.verify import compare_processors
from dsvl_tune.export.write_weights import compare_weights, unchanged
from dsvl_tune.families import checkpoint_folder, open_checkpoint
from dsvl_tune.models.checkpoint.weights import UNUSED, Weights


def convert_checkpoint(
    source: str, out: Path, layout: Layout, *, overwrite: bool, sha256: Path | None
) -> str:
    """Write a checkpoint in a layout, and compare every written tensor with its source.

    Args:
        source: Checkpoint in either layout: a folder or a hub name.
        out: Folder to write.
        layout: Layout to write.
        overwrite: Whether to replace `out` if it exists, once the new checkpoint is complete.
        sha256: List of hashes, as `sha256sum` writes it, to compare the source's files with first.

    Returns:
        An account of every tensor, for the terminal and the model card.

    Raises:
        UserError: The source cannot be used, or `out` cannot be written.
    """
    folder = checkpoint_folder(source)
    check_output_folder(out, "DST", is_written_checkpoint, inputs=[folder], overwrite=overwrite)
    if sha256 is not None:
        check_sums(folder, read_sums(sha256), sha256)
    base = open_checkpoint(source)
    weights = Weights(base)
    with atomic_folder(out, overwrite) as partial:
        merge_into(weights, {}, partial, layout, dtype=None)
        target = open_checkpoint(partial)
        compare_processors(base, target)
        written = Weights(target)
        compare_weights(weights, written, unchanged, dtype=None)
        account = account_text(weights, written)
        write_card(target, base, {"Conversion": account})
        write_sums(partial)
    return account


def account_text(source: Weights, written: Weights) -> str:
    """Where every tensor is now, for the terminal and the card."""
    before, after = source.checkpoint, written.checkpoint
    lines = [
        f"{before.layout} layout, {source.count()} tensors -> {after.layout} layout, "
        f"{written.count()} tensors: read back, equal bit for bit",
    ]
    if source.unused and not written.is_original:
        lines.append(
            f"{len(source.unused)} of them have no place in transformers and are in {UNUSED}"
        )
    elif source.unused:
        lines.append(
            f"{len(source.unused)} of them are not read by the original's code and are kept"
        )
    if written.is_original:
        absent = 0 if source.unused else len(before.family.unused_tensors(before.config))
        lines += after.family.conversion_notes(after.settings, absent)
    return "\n".join(lines)
