"""`dsvl-tune merge RUN --out DIR`: a run's result as one plain checkpoint in either layout, verified."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse.typing import NonNegativeInt

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checksums import write_sums
from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import whole_folder, write_json
from dsvl_tune.core.types import Prompts
from dsvl_tune.core.weight_headers import read_json
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.export.merge_adapter import apply_changes, check_changes, merge_into, read_changes
from dsvl_tune.export.model_card import run_sections, verified_text, write_card
from dsvl_tune.export.trained_tensors import trained_folder
from dsvl_tune.export.verify import compare_processors, verify
from dsvl_tune.export.write_settings import REPORT, main_dtype
from dsvl_tune.export.write_weights import compare_weights
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.base import Layout, part_of
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.recipe.recipe import Recipe

Dtype = Literal["base", "float32", "bfloat16", "float16"]


def merge(
    run: Path,
    out: Path | None = None,
    base: str | None = None,
    layout: Layout = "transformers",
    dtype: Dtype = "base",
    rows: NonNegativeInt = 16,
    checkpoint: str | None = None,
) -> None:
    """Merge what a run trained into its base checkpoint, and prove it.

    The base is read and written file by file. The written checkpoint is then loaded afresh, whole and in float32,
    and must answer held-out rows as base + adapter does: the largest logit difference is held against a bound, and
    greedy answers are compared; tensors that were not trained must be the base's, bit for bit. On a mismatch the
    command fails and leaves nothing in --out. A model card, the base's licence and the hash of every file go along.
    A run on a 4-bit base is merged into the base as its files have it; how far the 4-bit model's answers are from
    the result's is reported.

    Args:
        run: folder of a finished run.
        out: folder to make; it must not exist yet. Default: merged/ inside the run folder.
        base: checkpoint that the adapter belongs to; default: the one that the run was trained from; give it
            when that has moved.
        layout: transformers, or original for the code of github.com/deepseek-ai/DeepSeek-VL.
        dtype: of the written weights; base keeps the base's own.
        rows: held-out rows to verify with; 0 leaves the loading and answering out, for want of memory.
        checkpoint: what to merge instead of the run's result, also of a run that was stopped: best, last or the path
            of a checkpoint, which many processes may have written.
    """
    name = base or read_recipe(run)["model"]["checkpoint"]
    base_checkpoint = open_checkpoint(name)
    same_base = is_runs_base(run, base_checkpoint, given=base is not None)
    changes = {"model.checkpoint": name}
    if rows:
        changes["data.init_args.eval_batch_size"] = str(rows)
    recipe = Recipe.load(run / "config.yaml", changes)
    prompts = held_out_prompts(recipe.data) if rows else None
    out = out or run / "merged"
    with (
        trained_folder(run, checkpoint, lambda: recipe.model) as adapter,
        whole_folder(out) as partial,
    ):
        differing = write_merged(base_checkpoint, adapter, partial, layout, dtype)
        written = open_checkpoint(partial)
        report = {"layout": layout, "dtype": main_dtype(written.headers.values()), "rows": 0}
        if prompts is not None:
            quantization = read_json(run / "manifest.json").get("quantization")
            report |= verify(base_checkpoint, adapter, written, prompts, quantization)
        report |= {"base": name, "base_is_the_runs": same_base, "checkpoint": checkpoint}
        parts = base_checkpoint.family.parts
        report["changed_tensors"] = dict(Counter(part_of(one, parts) for one in differing))
        write_json(partial / REPORT, report)
        write_card(written, name, run_sections(run, report))
        write_sums(partial)
    note = "" if same_base else " (other files than the run was trained from)"
    print(f"merged into {name}{note}: {verified_text(report)}\ncheckpoint: {out}")


def read_recipe(run: Path) -> dict[str, Any]:
    """The recipe that a run folder keeps."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{run}: no config.yaml there. Give the folder of a finished run (runs/NAME)."
        )
    recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return recipe


def is_runs_base(run: Path, base: Checkpoint, given: bool) -> bool:
    """Whether a checkpoint's weight files are, bit for bit, those that the run was trained from.

    Args:
        run: its folder, whose manifest.json has the hashes.
        base: the checkpoint.
        given: whether the user named it, and so may mean another form of it.

    Raises:
        UserError: they are not, and the user did not name the checkpoint.
    """
    trained_from: dict[str, str] = read_json(run / "manifest.json")["checkpoint"]["sha256"]
    same = base.weight_hashes == trained_from
    if not same and not given:
        raise UserError(
            f"{base.folder}: its weights are not those that {run} was trained from (manifest.json "
            "has their hashes). Give the right checkpoint with --base."
        )
    return same


def write_merged(
    base: Checkpoint, adapter: Path, target: Path, layout: Layout, dtype: Dtype
) -> list[str]:
    """Write the merged checkpoint's weights and settings, and read them back.

    Args:
        base: the checkpoint that was trained on.
        adapter: folder of what training wrote.
        target: an empty folder.
        layout: to write.
        dtype: to write.

    Returns:
        Names of the tensors that differ from the base's.
    """
    weights, changes = Weights(base), read_changes(adapter)
    check_changes(weights, changes)
    torch_dtype = None if dtype == "base" else DTYPES[dtype]
    merge_into(weights, changes, target, layout, torch_dtype)
    written = open_checkpoint(target)
    compare_processors(base, written)
    return compare_weights(weights, Weights(written), apply_changes(changes), torch_dtype)


def held_out_prompts(data: ConversationDataModule) -> Prompts:
    """The first held-out questions of a run's own data, as many as it answers at a time."""
    data.setup("test")
    prompts: Prompts = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    return prompts


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser(merge)
    merge(**vars(parser.parse_args(arguments)))
