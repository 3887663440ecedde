"""`dsvl-tune init DIR`: the untrained checkpoint that the embedded model was trained from."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.storage.files import atomic_folder
from dsvl_tune.core.storage.outputs import check_new


def init(out: Path, seed: int = 1) -> None:
    """Write a small untrained checkpoint: the start of `make embedded`.

    Args:
        out: Folder to write; it must not exist yet.
        seed: Seed of the random weights.
    """
    check_new(out, "OUT")
    from dsvl_tune.demo.build_model import build_embedded, save_checkpoint
    from dsvl_tune.demo.vocabulary import generator_texts

    model, tokenizer = build_embedded(seed, generator_texts())
    with atomic_folder(out) as partial:
        save_checkpoint(partial, model, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"untrained checkpoint, {parameters:,} parameters, {len(tokenizer)} tokens: {out}")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("init", init)
    init(**vars(parser.parse_args(arguments)))
