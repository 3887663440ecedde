"""README.md of a written checkpoint: what it is, how good it is, how to use it, its license.

It is for those who use the model. What an audit needs (hashes, plan, data settings, versions) is in
`audit.json`, see `audit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.hub import hub_name, public_name
from dsvl_tune.core.package import VERSION
from dsvl_tune.export.pixel_difference import Difference, pixel_differences

FILES = """\
`SHA256SUMS` has the hash of every file: `sha256sum -c SHA256SUMS`; dsvl-tune checks it on every
loading.
"""
UNTESTED = "No software but dsvl-tune has loaded an export of this family in this layout.\n"
TASK = "image-text-to-text"
"""Of the hub's list of tasks."""


def write_card(
    target: Checkpoint,
    base: Checkpoint,
    sections: Mapping[str, str],
    *,
    summary: str = "",
    results: Sequence[EvalResult] = (),
) -> None:
    """Write README.md into a checkpoint folder whose other files are complete.

    Args:
        target: the checkpoint.
        base: the checkpoint that it was made from; of a folder only the last part is written.
        sections: heading -> text, before those that every checkpoint has.
        summary: a paragraph below the title.
        results: for the hub's index of evaluation results.
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
    name = public_name(base.name)
    made = f"Written by dsvl-tune {VERSION} with transformers {transformers.__version__}."
    if base.commit is not None:
        made += f" The base is commit {base.commit} of {base.repository}."
    intro = "\n\n".join(paragraph for paragraph in (summary, made) if paragraph)
    front = card_data(base.name, target, results).to_yaml()
    card = ModelCard(f"---\n{front}\n---\n\n# {text.title} from {name}\n\n{intro}\n\n{body}")
    card.save(target.folder / "README.md")


def card_data(base: str, target: Checkpoint, results: Sequence[EvalResult] = ()) -> ModelCardData:
    """The keys that the Hugging Face hub reads.

    Args:
        base: name of the base checkpoint; the embedded one has this project's license.
        target: the checkpoint.
        results: for the hub's index of evaluation results.
    """
    keys: dict[str, Any] = {"license": "mit"}
    if base != "embedded":
        keys = dict(target.family.card.license_front_matter)
    if (on_hub := hub_name(base)) is not None:
        keys["base_model"] = on_hub.repository
    if target.layout == "transformers":
        keys["library_name"] = "transformers"
    if results:
        keys["model_name"] = f"{target.family.card.title} from {public_name(base)}"
        keys["eval_results"] = list(results)
    return ModelCardData(pipeline_tag=TASK, tags=["dsvl-tune"], **keys)


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
