"""`dsvl-tune merge RUN --out DIR`: a run's result as one plain transformers checkpoint, verified."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import auto_cli
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from dsvl_tune.files import write_json
from dsvl_tune.models.adapters import load_trained
from dsvl_tune.models.loading import load_model, resolve_checkpoint, weight_files
from dsvl_tune.models.merging import merge_into, read_changes
from dsvl_tune.models.parts import part_of
from dsvl_tune.schema import Prompts, UserError

# Largest logit difference allowed, as a share of the logits' spread (standard deviation): float32 differs by the
# order of additions, 16 bits by the rounding of every weight.
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def merge(
    run: Path,
    out: Path | None = None,
    base: str | None = None,
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base",
    rows: int = 16,
) -> None:
    """Merge what a run trained into its base checkpoint, and prove it.

    The base is read and written file by file. The written checkpoint is then loaded with plain transformers and must
    answer held-out rows as base + adapter does: the largest logit difference is held against a bound, and greedy
    answers are compared. On a mismatch the command fails and leaves nothing in --out.

    Args:
        run: folder of a finished run.
        out: folder to make; it must not exist yet. Default: merged/ inside the run folder.
        base: checkpoint that the adapter belongs to; default: the one that the run was trained from; give it
            when that has moved.
        dtype: of the written weights; base keeps the base's own.
        rows: held-out rows to verify with.
    """
    out = out or run / "merged"
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out}: exists and is not empty. Give a new folder.")
    adapter = run / "adapter"
    base_folder = resolve_checkpoint(base or read_recipe(run)["model"]["checkpoint"])
    changes = read_changes(adapter)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        changed = merge_into(base_folder, changes, partial, None if dtype == "base" else getattr(torch, dtype))
        report = verify(base_folder, adapter, partial, held_out_prompts(run, rows))
        report["changed_tensors"] = dict(Counter(part_of(name) for name in changed))
        write_json(partial / "merge_report.json", report)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(report_text(report, out))


def read_recipe(run: Path) -> dict[str, Any]:
    """The recipe that a run folder keeps."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run}: no config.yaml there. Give the folder of a finished run (runs/NAME).")
    recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return recipe


def held_out_prompts(run: Path, rows: int) -> Prompts:
    """The first held-out questions of the run's own data."""
    from dsvl_tune.recipe import RecipeCLI  # brings lightning, which merging alone does not need

    arguments = ["--config", str(run / "config.yaml"), "--data.init_args.eval_batch_size", str(rows)]
    data = RecipeCLI(arguments, run=False).datamodule
    data.setup("test")
    prompts: Prompts = next(iter(data.test_dataloader()))
    return prompts


def verify(base: Path, adapter: Path, merged: Path, prompts: Prompts) -> dict[str, Any]:
    """Load the merged checkpoint afresh with plain transformers and compare it with base + adapter, in float32.

    Raises:
        UserError: they do not answer alike.
    """
    stored = next(iter(read_dtypes(merged)))
    plain, loading = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32, output_loading_info=True)
    if loading["missing_keys"] or loading["unexpected_keys"]:
        raise UserError(f"{merged}: plain transformers reports {loading}.")
    trained = load_model(base)
    load_trained(trained, adapter)
    outcomes = [answer(model.eval(), prompts) for model in (trained, plain)]
    (trained_logits, trained_ids), (plain_logits, plain_ids) = outcomes
    difference = (trained_logits - plain_logits).abs()
    alike = [torch.equal(*pair) for pair in zip(trained_ids, plain_ids, strict=True)]
    bound = BOUNDS[stored] * max(1.0, float(trained_logits.std()))
    report: dict[str, Any] = {
        "base": str(base),
        "dtype": str(stored).removeprefix("torch."),
        "rows": len(alike),
        "max_logit_difference": float(difference.max()),
        "mean_logit_difference": float(difference.mean()),
        "bound": bound,
        "greedy_agreement": sum(alike) / len(alike),
    }
    if not report["max_logit_difference"] <= bound:
        raise UserError(
            "the merged checkpoint does not answer as base + adapter does: largest logit difference "
            f"{report['max_logit_difference']:.3g}, bound {bound:.3g}. Nothing was kept."
        )
    return report


def read_dtypes(folder: Path) -> set[torch.dtype]:
    """The dtypes of a checkpoint's weights."""
    dtypes = set()
    for path in set(weight_files(folder).values()):
        with safe_open(path, framework="pt") as file:
            dtypes |= {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  (not a dict)
    return dtypes


@torch.no_grad()
def answer(model: PreTrainedModel, prompts: Prompts) -> tuple[Tensor, list[Tensor]]:
    """Logits of every real position [*, vocabulary], and the greedy ids of each row; by transformers' own path."""
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    if prompts.pixel_values is not None:
        inputs["pixel_values"] = prompts.pixel_values[prompts.image_index]
    if prompts.high_res_pixel_values is not None:
        inputs["high_res_pixel_values"] = prompts.high_res_pixel_values[prompts.image_index]
    logits = model(**inputs).logits[prompts.attention_mask.bool()]
    ids = model.generate(**inputs, max_new_tokens=16, do_sample=False)[:, prompts.input_ids.shape[1] :]
    return logits, list(ids)


def report_text(report: dict[str, Any], out: Path) -> str:
    """What the command says at its end."""
    changed = ", ".join(f"{part} {count}" for part, count in report["changed_tensors"].items())
    return (
        f"merged into {report['base']} ({report['dtype']}); tensors changed: {changed}\n"
        f"verified on {report['rows']} held-out rows against base + adapter, loaded afresh in plain transformers:\n"
        f"  largest logit difference {report['max_logit_difference']:.2e} (bound {report['bound']:.0e}), "
        f"mean {report['mean_logit_difference']:.2e}\n"
        f"  greedy answers equal: {100 * report['greedy_agreement']:.1f} %\n"
        f"checkpoint: {out}"
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    auto_cli(merge, args=arguments[1:], prog="dsvl-tune merge", as_positional=True)
