"""`dsvl-tune convert SRC DST --to LAYOUT`: a checkpoint in the other layout, nothing lost."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.checkpoint import resolve_checkpoint
from dsvl_tune.core.checksums import check_sums, read_sums, write_sums
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import whole_folder
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.export.model_card import write_card
from dsvl_tune.export.verify import compare_processors
from dsvl_tune.export.write_weights import compare_weights, unchanged
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.base import Layout
from dsvl_tune.models.checkpoint.weights import UNUSED, Weights


def convert(
    src: str, dst: Path, to: Layout, overwrite: bool = False, sha256: Path | None = None
) -> None:
    """Write a checkpoint in transformers' layout, or in the original one (github.com/deepseek-ai).

    The source is read and written file by file, in its dtype, and every written tensor is read back
    and compared with it, bit for bit. What transformers has no place for goes to a side file, so
    that converting back restores every tensor of the original. DST appears when it is complete;
    after a kill, the same command starts over.

    Args:
        src: checkpoint in either layout: a folder or a hub name.
        dst: folder to make; it must not exist yet.
        to: layout to write.
        overwrite: replace DST if it exists, once the new checkpoint is complete.
        sha256: list of hashes to compare SRC's files with first, in the form of `sha256sum`, as a
            publisher gives it. Without one, a flipped bit among weights that come without a
            SHA256SUMS cannot be noticed.
    """
    folder = resolve_checkpoint(src)
    if dst.absolute() in (folder.absolute(), *folder.absolute().parents):
        raise UserError(f"{dst}: contains {folder}. Give another folder for the result.")
    if sha256 is not None:
        check_sums(folder, read_sums(sha256), sha256)
    base = open_checkpoint(src)
    weights = Weights(base)
    with whole_folder(dst, overwrite) as partial:
        merge_into(weights, {}, partial, to, dtype=None)
        target = open_checkpoint(partial)
        compare_processors(base, target)
        written = Weights(target)
        compare_weights(weights, written, unchanged, dtype=None)
        account = account_text(weights, written)
        write_card(target, src, {"Conversion": account})
        write_sums(partial)
    print(f"{account}\ncheckpoint: {dst}")


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
    renamed = [name for name, (stored, *_) in source.stored.items() if name != stored.name]
    if not source.is_original and renamed:
        lines.append(
            f"{len(renamed)} names were those of an older transformers release, and are current now"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Entry of the command; SRC and DST are positional, the layout and the flag are named."""
    parser = command_parser(convert, skip={"to", "overwrite"})
    parser.add_argument("--to", type=Layout, required=True, help="layout to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace DST once the new checkpoint is complete"
    )
    convert(**vars(parser.parse_args(arguments)))
