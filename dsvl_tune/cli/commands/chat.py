"""`dsvl-tune chat`: ask a model about images, in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError


def chat(
    model: str,
    image: Path | list[Path] | None = None,
    prompt: str | None = None,
    adapter: Path | None = None,
    system: str | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int = 1,
    max_new_tokens: int = 512,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
) -> None:
    """Answer about images: once with --prompt, else as a conversation.

      dsvl-tune chat --model merged --image chart.png --prompt "How many bars are there?"
      dsvl-tune chat --model merged --image+ a.png --image+ b.png

    In a conversation, a line is a question, a line "/image PATH" shows an image with the next
    question, and an empty line ends it. PATH may be quoted or escaped as in a shell. If the lines
    are piped, the first one that fails ends the command.

    Args:
        model: Checkpoint: a folder (merged or base), a hub name, or "embedded".
        image: Image of the first question, in front of its text or where that has <image>; several
            as --image+ a.png --image+ b.png.
        prompt: The question; without it, a conversation starts.
        adapter: Folder adapter/ of a run, to apply to the model.
        system: System prompt (default: the checkpoint's own; "" for none).
        temperature: 0 is greedy; above 0, tokens are sampled (the official demo uses 0.2).
        top_p: Share of the probability mass that is sampled from (default: 0.95).
        repetition_penalty: Penalty of tokens that the answer already has; 1: none (default: 1.1).
        seed: Seed of sampling.
        max_new_tokens: Length of the longest answer.
        dtype: Of the weights; auto is float32 on a CPU and bfloat16 on a GPU.
    """
    # Imported here, so that help and errors about options come at once.
    import torch

    from dsvl_tune.cli.dialog import Dialog, read_sampling
    from dsvl_tune.evaluation.chat_model import image_ref, load_model

    sampling = read_sampling(temperature, top_p, repetition_penalty)
    paths = image if isinstance(image, list) else [image] if image else []
    images = [image_ref(path, "--image") for path in paths]
    chat_model = load_model(model, adapter=adapter, dtype=dtype)
    dialog = Dialog(chat_model, system, sampling, max_new_tokens, images)
    torch.manual_seed(seed)
    if prompt is not None:
        dialog.ask(prompt, "--prompt")
        return
    for line in _typed_lines():
        try:
            dialog.handle(line)
        except UserError as error:
            if not sys.stdin.isatty():  # the next question would be answered without its image
                raise
            print(error, file=sys.stderr)


def _typed_lines() -> Iterator[str]:
    """Read lines until an empty one or the end of the input."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError(f"standard input: not UTF-8 ({error.reason}).") from error
        if not line:
            return
        yield line


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("chat", chat, as_positional=False)
    chat(**vars(parser.parse_args(arguments)))
