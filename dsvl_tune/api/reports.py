"""Write the page about finished runs: what the command `report` calls, and `fit` at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.rows import Rows
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.run.folder import CONFIG


def write_report(
    runs: Sequence[str | Path], out: str | Path | None = None, *, images: bool = True
) -> Path:
    """Write a page about a finished run, or about several runs side by side.

    The plots are also written as PNG files, into a folder next to the page.

    Args:
        runs: Folders of finished runs, at least one.
        out: The page to write; None takes `report.html` in the folder of a single run, in the
            working folder for several.
        images: Whether held-out questions are shown with their images, which are read again from
            the data of the run.

    Returns:
        The page.

    Raises:
        UserError: A folder holds no finished run, the data of the run is gone, or `out` exists and
            is no such page.
    """
    # Imported here because it draws by matplotlib, which training does not need.
    from dsvl_tune.report.run_record import read_run
    from dsvl_tune.report.write_page import HeldOutRows, check_page, write_page

    records = [read_run(Path(run)) for run in runs]
    if not records:
        raise UserError("report: no run was given. Give the folder of a run (runs/NAME).")
    single = records[0].folder if len(records) == 1 else Path()
    page = Path(out) if out is not None else single / "report.html"
    check_page(page)
    rows: HeldOutRows = {}
    if images:
        data = Recipe.load(records[0].folder / CONFIG).data
        data.setup("test")
        rows = _held_out_rows(data)
    write_page(records, page, rows)
    return page


def _held_out_rows(data: ConversationDataModule) -> dict[str, Rows]:
    """Rows of the sets that are answered before and after training, by name."""
    return {name: held_out.rows for name, held_out in data.final_sets.items()}


def write_run_report(folder: Path, data: ConversationDataModule) -> None:
    """Write `report.html`. The run is finished: what fails here does not make it fail."""
    from dsvl_tune.report.run_record import read_run
    from dsvl_tune.report.write_page import write_page

    try:
        write_page([read_run(folder)], folder / "report.html", _held_out_rows(data))
        print(f"report: {folder / 'report.html'}", flush=True)
    except UserError as error:
        print(f"no report was written: {error}", flush=True)
