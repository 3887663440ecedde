"""`dsvl-tune demo`: a local page to try a model, next to its base, and to keep verdicts."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError


def demo(
    model: str,
    adapter: Path | None = None,
    compare: str | None = None,
    system: str | None = None,
    max_new_tokens: int = 512,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    port: int | None = None,
    out: Path = Path("demo_rows"),
) -> None:
    """Try a model on a page: drop a picture, ask, and judge the answer.

      dsvl-tune demo --model merged
      dsvl-tune demo --model merged --compare embedded
      dsvl-tune demo --model embedded --adapter runs/charts_lora/adapter

    The page is served on this machine alone, and loads nothing from elsewhere. With --compare, or
    with --adapter, a base model answers next to the tuned one; both are in memory. Answers are
    greedy.

    Verdicts are kept in a folder: questions whose right answer is known in rows.jsonl, which fit,
    check-data and score read, the others in open.jsonl, and their pictures.

    Args:
        model: Checkpoint: a folder (merged or base), a hub name, or "embedded".
        adapter: Folder adapter/ of a run, to apply to the model.
        compare: Checkpoint that answers next to it (with --adapter by default the model without
            the adapter).
        system: System prompt (default: the checkpoint's own; "" for none).
        max_new_tokens: Length of the longest answer.
        dtype: Of the weights; auto is float32 on a CPU and bfloat16 on a GPU.
        port: Of the page (default: the first free one from 7860 on).
        out: Folder of the verdicts; an earlier one is added to.
    """
    if find_spec("gradio") is None:
        raise UserError("demo: gradio is not installed. Run: pip install 'dsvl-tune[demo]'.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="dsvl-tune-demo-") as uploads:
        # Read when gradio is imported: uploads go where they are removed, and nothing is reported.
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}

        from dsvl_tune.evaluation.chat_model import load_model
        from dsvl_tune.playground.answering import Column
        from dsvl_tune.playground.page import Page, launch
        from dsvl_tune.playground.verdicts import VerdictFolder

        verdicts = VerdictFolder(out)
        verdicts.check("--out")
        base = compare or (model if adapter else None)
        columns = [Column(f"Base: {base}", load_model(base, dtype=dtype))] if base else []
        name = f"{model} with {adapter}" if adapter else model
        title = f"Tuned: {name}" if base else name
        columns.append(Column(title, load_model(model, adapter=adapter, dtype=dtype)))
        blocks, address = launch(Page(columns, verdicts, system, max_new_tokens), port)
        print(f"page: {address}\nEnd it with Ctrl-C.", flush=True)
        try:
            signal.pause()
        finally:
            blocks.close(verbose=False)


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("demo", demo, as_positional=False)
    demo(**vars(parser.parse_args(arguments)))
