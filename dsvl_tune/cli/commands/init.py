"""`dsvl-tune init DIR`: the untrained small checkpoint that the embedded model grew from."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError
from dsvl_tune.demo.build_model import build_embedded, save_checkpoint
from dsvl_tune.demo.vocabulary import generator_texts


def init(out: Path, seed: int = 1) -> None:
    """Write a small untrained hybrid DeepSeek-VL: the start of `make embedded`.

    Args:
        out: folder to make; it must not exist yet.
        seed: of the random weights.
    """
    if out.exists():
        raise UserError(f"{out}: exists. Give a new folder.")
    model, tokenizer = build_embedded(seed, generator_texts())
    out.mkdir(parents=True)
    save_checkpoint(out, model, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"untrained checkpoint, {parameters:,} parameters, {len(tokenizer)} tokens: {out}")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser(init)
    init(**vars(parser.parse_args(arguments)))
