"""`dsvl-tune examples`: the example pictures of the package, written as files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.storage.outputs import check_new
from dsvl_tune.core.text_table import format_table

EXAMPLES = {
    "chart": ("chart.png", "a bar chart that charts_lora has not seen in training"),
    "invoices": ("invoices", "60 photographed invoices, and a table of their fields"),
}
"""Example -> the file or folder that is written by default, and what it is."""


def examples(name: str | None = None, out: Path | None = None) -> None:
    """List the example pictures of the package; with a name, write them.

      dsvl-tune examples
      dsvl-tune examples --name chart
      dsvl-tune examples --name invoices --out invoices

    All are drawn by seed, the same ones every time.

    Args:
        name: What to write.
        out: File or folder to write it to; it must not exist yet (default: the one listed).
    """
    if name is None and out is not None:
        raise UserError(f"--out {out}: nothing to write. Give --name, too.")
    if name is None:
        rows = [[example, *texts] for example, texts in EXAMPLES.items()]
        print(format_table(["example", "written to", "what it is"], rows, left=3))
        return
    if name not in EXAMPLES:
        raise unknown_name("example", name, EXAMPLES)
    target = out or Path(EXAMPLES[name][0])
    check_new(target, "--out")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--out {target}: no such folder. Give a name in an existing one.")
    _write(name, target)
    print(f"written: {target}")


def _write(name: str, target: Path) -> None:
    """Draw an example and write it, whole or not at all."""
    from dsvl_tune.core.storage.files import atomic_folder, atomic_write
    from dsvl_tune.demo.charts import example_chart
    from dsvl_tune.demo.invoices.files import write_invoices

    if name == "chart":
        atomic_write(target, partial(example_chart().save, format="PNG"))
        return
    with atomic_folder(target) as folder:
        write_invoices(folder)


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("examples", examples)
    examples(**vars(parser.parse_args(arguments)))
