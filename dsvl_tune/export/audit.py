"""`audit.json` of a merged checkpoint: what trained on what, hashes, versions, the verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.storage.files import write_json

AUDIT = "audit.json"
"""In the folder of a merged checkpoint."""


def write_audit(folder: Path, run: Path, report: Mapping[str, Any], *, paths: bool) -> None:
    """Write `audit.json`.

    Args:
        folder: Of the merged checkpoint.
        run: Folder of the run.
        report: Content of `merge_report.json`.
        paths: Whether paths are written whole; else only their last parts.
    """
    recipe = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    manifest = read_json(run / "manifest.json")
    base = manifest["checkpoint"]
    audit = {
        "base": {key: base.get(key) for key in ("name", "commit", "sha256")},
        "data": recipe["data"],
        "plan": read_json(run / "plan.json"),
        "verification": verified_text(report).splitlines(),
        "versions": {
            "dsvl-tune": manifest["dsvl_tune"],
            "python": manifest["python"],
            **manifest["libraries"],
        },
        "quantization": manifest.get("quantization"),
    }
    write_json(folder / AUDIT, audit if paths else without_folders(audit))


def without_folders(value: Any) -> Any:
    """Copy nested values with only the last part of every absolute path, or one from home.

    Args:
        value: As JSON holds it.

    Example:
        >>> without_folders({"train": ["/home/me/rows.jsonl", "owner/set"]})
        {'train': ['rows.jsonl', 'owner/set']}
    """
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return Path(value).name
    return value


def verified_text(report: Mapping[str, Any]) -> str:
    """The figures of a verification, for the terminal and the card."""
    changed = ", ".join(f"{part} {count}" for part, count in report["changed_tensors"].items())
    by = (
        "plain transformers"
        if report["layout"] == "transformers"
        else "dsvl-tune's loader of the original layout"
    )
    written = (
        f"{report['layout']} layout, {report['dtype']}\n"
        f"tensors changed: {changed}; every other tensor equals the base's, bit for bit\n"
    )
    if not report["rows"]:
        return f"{written}not loaded and not asked anything (--rows 0)"
    exact = report["float64"]
    return (
        f"{written}every changed tensor is peft's own merge in float64, rounded once\n"
        f"verified on {report['rows']} held-out rows against base + adapter, loaded afresh by "
        f"{by}:\n"
        f"  logits (spread {report['logit_spread']:.2e}) in float32: largest difference "
        f"{report['max_logit_difference']:.2e}, mean {report['mean_logit_difference']:.2e} "
        f"(bound of the mean {report['mean_bound']:.2e}); float32's own noise here: largest "
        f"{report['float32_noise']['max']:.2e}, mean "
        f"{report['float32_noise']['mean']:.2e}\n"
        f"  in float64, {exact['rows']} rows: largest {exact['max_logit_difference']:.2e}, mean "
        f"{exact['mean_logit_difference']:.2e} (bound of the mean {exact['mean_bound']:.2e}); "
        f"loaded against written: largest "
        f"{exact['reload_difference']:.2e} (bound {exact['reload_bound']:.2e})\n"
        f"  greedy answers equal: {100 * report['greedy_agreement']:.1f} %{four_bit_text(report)}"
    )


def four_bit_text(report: Mapping[str, Any]) -> str:
    """What a verification says of a run on a 4-bit base; nothing for other runs."""
    found = report.get("trained_in_4_bits")
    if found is None:
        return ""
    return (
        f"\ntrained on the base in 4 bits ({found['quantization']}), merged into the base as its "
        "files have it.\n"
        f"  the 4-bit model's logits (spread {found['logit_spread']:.2e}) differ from base + "
        "adapter by at most "
        f"{found['max_logit_difference']:.2e}, mean {found['mean_logit_difference']:.2e}\n"
        f"  greedy answers equal: {100 * found['greedy_agreement']:.1f} %"
    )
