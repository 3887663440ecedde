"""`dsvl-tune merge RUN`: the result of a run as one plain checkpoint, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dsvl_tune.cli.parser import command_parser


def merge_command(
    run: Path,
    out: Path | None = None,
    base: str | None = None,
    layout: Literal["transformers", "original"] = "transformers",
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base",
    rows: int = 16,
    checkpoint: str | None = None,
    samples: int = 4,
    paths: bool = False,
) -> None:
    """Merge what a run trained into its base checkpoint, and verify the result.

      dsvl-tune merge runs/charts_lora --out merged
      dsvl-tune merge runs/charts_lora --checkpoint last --out last

    The base is read and written file by file. Then the written checkpoint is loaded like any other
    and must answer held-out questions like base + adapter, within measured bounds of rounding;
    tensors that were not trained must equal the base's, bit for bit. On a mismatch the command
    fails and leaves nothing in --out. The checkpoint comes with a model card, the license of the
    base, an audit (data, plan, hashes, versions) and the hash of every file.

    A run on a 4-bit base is merged into the base in the precision of its files; how far the answers
    of the 4-bit model are from those of the result is reported.

    Args:
        run: Folder of a run.
        out: Folder to write; it must not exist yet (default: merged/ in the run folder).
        base: Base checkpoint (default: the one that the run was trained from; give it if that has
            moved).
        layout: transformers, or original for the code of github.com/deepseek-ai/DeepSeek-VL.
        dtype: Of the written weights; base keeps the base's own.
        rows: Number of held-out rows to verify with; 0 skips loading and answering, which need the
            memory of the whole model.
        checkpoint: Run checkpoint to merge, also of a run that was stopped: best, last or a path
            (default: the result of the run).
        samples: Number of held-out questions with their answers that the model card shows; 0 shows
            none, which keeps private texts out of it.
        paths: Whether the report and the audit have whole paths of data and base; else only their
            last parts.
    """
    from dsvl_tune import api
    from dsvl_tune.export.audit import verified_text

    merged = api.merge(
        run,
        out,
        base=base,
        layout=layout,
        dtype=dtype,
        rows=rows,
        checkpoint=checkpoint,
        samples=samples,
        paths=paths,
    )
    report = merged.report
    note = "" if report["base_is_the_runs"] else " (other files than the run was trained from)"
    print(f"merged into {report['base']}{note}: {verified_text(report)}")
    print(f"checkpoint: {merged.folder}")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("merge", merge_command)
    merge_command(**vars(parser.parse_args(arguments)))
