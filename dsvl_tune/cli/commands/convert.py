"""`dsvl-tune convert SRC DST --to LAYOUT`: a checkpoint in the other layout, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dsvl_tune.cli.parser import command_parser


def convert(
    src: str,
    dst: Path,
    to: Literal["transformers", "original"],
    overwrite: bool = False,
    sha256: Path | None = None,
) -> None:
    """Write a checkpoint in the layout of transformers, or in the original one.

      dsvl-tune convert deepseek-ai/deepseek-vl-1.3b-chat chat --to transformers

    The source is read and written file by file, in its dtype, and every written tensor is read back
    and compared with it, bit for bit. What transformers has no place for goes to a side file, so
    that converting back restores every tensor of the original. DST appears when it is complete;
    after a kill, the same command starts over.

    Args:
        src: Checkpoint in either layout: a folder or a hub name.
        dst: Folder to write; it must not exist yet.
        to: Layout to write: transformers, or original for github.com/deepseek-ai/DeepSeek-VL.
        overwrite: Replace DST if it exists, once the new checkpoint is complete.
        sha256: List of hashes to compare SRC's files with first, as `sha256sum` writes it and a
            publisher gives it. Without one, a flipped bit among weights that come without a
            SHA256SUMS cannot be noticed.
    """
    from dsvl_tune.export.convert_checkpoint import convert_checkpoint

    account = convert_checkpoint(src, dst, to, overwrite=overwrite, sha256=sha256)
    print(f"{account}\ncheckpoint: {dst}")


def main(arguments: list[str]) -> None:
    """Entry of the command: SRC and DST are positional, --overwrite takes no value."""
    parser = command_parser("convert", convert, skip={"to", "overwrite"})
    parser.add_argument(
        "--to",
        type=Literal["transformers", "original"],
        required=True,
        help="layout to write: transformers, or original for github.com/deepseek-ai/DeepSeek-VL",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace DST if it exists, once the new checkpoint is complete",
    )
    convert(**vars(parser.parse_args(arguments)))
