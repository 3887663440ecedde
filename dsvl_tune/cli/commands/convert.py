"""`dsvl-tune convert SRC DST --to LAYOUT`: a checkpoint in the other layout, every tensor accounted for."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.checksums import check_sums, read_sums, write_sums
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import whole_folder
from dsvl_tune.core.weight_headers import read_json
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.export.model_card import write_card
from dsvl_tune.export.verify import compare_processors
from dsvl_tune.export.write_weights import Layout, compare_weights, unchanged
from dsvl_tune.families.deepseek_vl.config import SAM_TOWERS, SIGLIP_TOWERS
from dsvl_tune.models.checkpoint.load import read_config, resolve_checkpoint
from dsvl_tune.models.checkpoint.weights import UNUSED, Weights, unused_of


def convert(
    src: str, dst: Path, to: Layout, overwrite: bool = False, sha256: Path | None = None
) -> None:
    """Write a checkpoint in transformers' layout, or in the original one (github.com/deepseek-ai/DeepSeek-VL).

    The source is read and written file by file, in its dtype, and every written tensor is read back and compared with
    it, bit for bit. What transformers has no place for goes to a side file, so that the way back gives the original's
    every tensor again. DST appears when all of it is there; after a kill, the same command starts over.

    Args:
        src: checkpoint in either layout: a folder or a hub name.
        dst: folder to make; it must not exist yet.
        to: layout to write.
        overwrite: replace DST, once the new checkpoint is complete, if something stands there.
        sha256: list of hashes to hold SRC's files against first, in the form of `sha256sum`, as a publisher gives it.
            Without one, a flipped bit among weights that bring no SHA256SUMS of their own cannot be noticed.
    """
    folder = resolve_checkpoint(src)
    if dst.absolute() in (folder.absolute(), *folder.absolute().parents):
        raise UserError(f"{dst}: {folder} lies there. Give another folder for the result.")
    if sha256 is not None:
        check_sums(folder, read_sums(sha256), sha256)
    weights = Weights(folder, read_config(folder))
    with whole_folder(dst, overwrite) as partial:
        merge_into(weights, {}, partial, to, dtype=None)
        compare_processors(folder, partial)
        written = Weights(partial, read_config(partial))
        compare_weights(weights, written, unchanged, dtype=None)
        account = account_text(weights, written)
        write_card(partial, src, to, {"Conversion": account})
        write_sums(partial)
    print(f"{account}\ncheckpoint: {dst}")


def account_text(source: Weights, written: Weights) -> str:
    """Every tensor's whereabouts, for the terminal and the card."""
    layouts = [
        f"{'original' if weights.original else 'transformers'} layout"
        for weights in (source, written)
    ]
    counts = [weights.count() for weights in (source, written)]
    lines = [
        f"{layouts[0]}, {counts[0]} tensors -> {layouts[1]}, {counts[1]} tensors: read back, equal bit for bit",
    ]
    absent = len(unused_of(source.config))
    if source.unused and not written.original:
        lines.append(
            f"{len(source.unused)} of them have no place in transformers and are in {UNUSED}"
        )
    elif source.unused:
        lines.append(
            f"{len(source.unused)} of them are not read by the original's code and came along"
        )
    elif written.original:
        lines.append(
            f"{absent} tensors that the original's code has but never reads (attention pooling, two norms) are not in "
            "the source and so not here: that code draws them at random, with a warning and without effect"
        )
    if written.original and not has_published_towers(written.folder):
        lines.append(
            "its vision towers have no published name: config.json holds their sizes, which dsvl-tune reads and the "
            "original's code does not"
        )
    if not source.original and any(name != stored.name for name, stored in source.stored.items()):
        lines.append("SigLIP's names lost the level that transformers before version 5 wrote")
    return "\n".join(lines)


def has_published_towers(folder: Path) -> bool:
    """Whether the original's code can build the towers, which it knows by name only."""
    vision = read_json(folder / "config.json")["vision_config"]["params"]
    towers = (
        [vision[key] for key in ("high_res_cfg", "low_res_cfg")]
        if "high_res_cfg" in vision
        else [vision]
    )
    return all(tower["model_name"] in {**SIGLIP_TOWERS, **SAM_TOWERS} for tower in towers)


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser(convert, skip={"to", "overwrite"})
    parser.add_argument("--to", type=Layout, required=True, help="layout to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace DST once the new checkpoint is complete"
    )
    convert(**vars(parser.parse_args(arguments)))
