"""README.md of a written checkpoint: what it is, its source, what was measured, its license."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
import yaml

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.hub import hub_name
from dsvl_tune.core.package import VERSION
from dsvl_tune.export.pixel_difference import Difference, pixel_differences

FILES = """\
`SHA256SUMS` has the hash of every file: `sha256sum -c SHA256SUMS`; dsvl-tune checks it on every
loading.
"""


UNTESTED = "No software but dsvl-tune has loaded an export of this family in this layout.\n"


def write_card(target: Checkpoint, base: str, sections: dict[str, str]) -> None:
    """Write README.md into a checkpoint folder whose other files are complete.

    Args:
        target: the checkpoint.
        base: name of the base checkpoint.
        sections: heading -> text, before those that every checkpoint has.
    """
    text, layout = target.family.card, target.layout
    general = {"Use": text.use[layout].replace("FOLDER", "this folder")}
    if layout == "transformers":
        general["Pixels"] = text.pixels
        if text.has_image_processor:
            general["Pixels"] += differences_text(pixel_differences(target))
    general["Tested"] = text.tested.get(layout, UNTESTED)
    general["Files"] = FILES
    general["License"] = text.license
    body = "\n".join(
        f"## {heading}\n\n{text.rstrip()}\n" for heading, text in {**sections, **general}.items()
    )
    front = yaml.safe_dump(front_matter(base, target), sort_keys=False)
    made = f"Written by dsvl-tune {VERSION} with transformers {transformers.__version__}."
    card = f"---\n{front}---\n\n# {text.title} from {base}\n\n{made}\n\n{body}"
    (target.folder / "README.md").write_text(card, encoding="utf-8")


def front_matter(base: str, target: Checkpoint) -> dict[str, Any]:
    """The keys that the Hugging Face hub reads.

    Args:
        base: name of the base checkpoint; the embedded one has this project's license.
        target: the checkpoint.
    """
    keys: dict[str, Any] = {"license": "mit"}
    if base != "embedded":
        keys = dict(target.family.card.license_front_matter)
    if (on_hub := hub_name(base)) is not None:
        keys["base_model"] = on_hub.repository
    if target.layout == "transformers":
        keys["library_name"] = "transformers"
    return {**keys, "pipeline_tag": "image-text-to-text"}


def differences_text(differences: list[Difference]) -> str:
    """How far transformers' image processor is from ours, measured on this checkpoint."""
    rows = "\n".join(
        f"| {one.width} x {one.height} | {one.mean:.2f} | {one.largest:.0f} |"
        for one in differences
    )
    return f"""\
Measured when this was written, transformers {transformers.__version__}, `backend="pil"`, gray
levels of 0 to 255:

| image in px | mean difference | largest |
|---|---|---|
{rows}

Its torchvision backend resizes by another algorithm and differs a little on every size.
"""


def run_sections(run: Path, report: dict[str, Any]) -> dict[str, str]:
    """Sections on a run: what trained on what, its scores, how the merge was verified, versions."""
    recipe = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    plan, manifest = (read_json(run / f"{name}.json") for name in ("plan", "manifest"))
    checkpoint = report["checkpoint"]
    versions = {
        "dsvl-tune": manifest["dsvl_tune"],
        "python": manifest["python"],
        **manifest["libraries"],
    }
    return {
        "Base": f"`{report['base']}`. Trained from weight files with these SHA-256:\n\n"
        + code(manifest["checkpoint"]["sha256"]),
        "Data": code(recipe["data"]),
        "Plan": code(plan),
        "Held-out scores": f"Not measured for this checkpoint, {checkpoint}."
        if checkpoint
        else scores_text(read_json(run / "summary.json")),
        "Verified": f"```\n{verified_text(report)}\n```",
        "Versions at training": ", ".join(
            f"{name} {version}" for name, version in versions.items()
        ),
    }


def code(content: Any) -> str:
    """YAML in a block."""
    return f"```yaml\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}```"


def scores_text(summary: dict[str, Any]) -> str:
    """Before, after and majority baseline of each metric; "-" where there is none."""
    # Runs of versions before 0.2 call the baseline "floor".
    baseline = summary.get("majority_baseline", summary.get("floor", {}))
    rows = []
    for metric, after in summary["after"].items():
        scores = (summary["before"].get(metric), after, baseline.get(metric))
        rows.append(
            f"| {' | '.join([metric, *('-' if one is None else f'{one:.3f}' for one in scores)])} |"
        )
    return "\n".join(
        ["| metric | before | after | best constant answer |", "|---|---|---|---|", *rows]
    )


def verified_text(report: dict[str, Any]) -> str:
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
        f"{report['max_logit_difference']:.2e}, mean {report['mean_logit_difference']:.2e} (bound "
        f"{report['mean_bound']:.2e}); float32's own noise here: largest "
        f"{report['float32_noise']['max']:.2e}, mean "
        f"{report['float32_noise']['mean']:.2e}\n"
        f"  in float64, {exact['rows']} rows: largest {exact['max_logit_difference']:.2e}, mean "
        f"{exact['mean_logit_difference']:.2e} (bound {exact['mean_bound']:.2e}); "
        f"loaded against written: largest "
        f"{exact['reload_difference']:.2e} (bound {exact['reload_bound']:.2e})\n"
        f"  greedy answers equal: {100 * report['greedy_agreement']:.1f} %{four_bit_text(report)}"
    )


def four_bit_text(report: dict[str, Any]) -> str:
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
