"""README.md of an adapter folder: what it holds, and the lines that load it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import peft
import transformers

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.hub import public_name
from dsvl_tune.core.family import part_of
from dsvl_tune.core.interop import PEFT, TRANSFORMERS
from dsvl_tune.core.package import VERSION

PLAIN = """\
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText
    base = AutoModelForImageTextToText.from_pretrained({base}, dtype="auto")
    model = PeftModel.from_pretrained(base, "FOLDER")

FOLDER stands for this folder. The tests of dsvl-tune run these lines with transformers
{transformers} and {earlier} with peft {peft}, and compare the logits with those of training.
"""

FOLLOWED = """\

`adapter_config.json` names the base, so that these load both:

    peft.AutoPeftModel.from_pretrained("FOLDER")
    transformers.AutoModelForImageTextToText.from_pretrained("FOLDER"{revision})
"""

CONVERTED = """\
The base is in its original layout, which transformers cannot load. Convert it once:

    dsvl-tune convert {base} converted --to transformers

"""

REFUSED = """\
peft has no place for {count} of the fully trained tensors (`{name}` for one), so it could only load
a part of what was trained. It refuses this folder instead: the settings are in
`dsvl_adapter_config.json`. Merge the run, or load the folder by dsvl-tune.
"""

LOCAL = """\

BASE stands for the folder of the base.
"""
"""The README is written to be passed on: the path, which peft needs, is in the settings alone."""

FOLDER_MARK = "(a local folder)"
"""After the name of a base that is not on the hub."""

NO_ADAPTER = """\
Only whole parts were trained, in `full_parts.safetensors`, and no adapters: there is nothing that
peft could load. Merge the run, or load the folder by dsvl-tune.
"""

NO_NETWORK = """\
transformers has no network for this model, so plain peft cannot load the adapter. Merge the run in
the original layout, or load the folder by dsvl-tune.
"""

OWN = """\
    dsvl-tune merge RUN --out merged             # RUN: the run folder that this one is in
    dsvl-tune chat --model {base} --adapter FOLDER
"""


def adapter_readme(
    base: Checkpoint,
    adapters: Iterable[str],
    full: Iterable[str],
    modules: list[str] | None,
) -> str:
    """The text of the README, in Markdown.

    Args:
        base: the checkpoint that was trained.
        adapters: names of the adapters' tensors.
        full: names of fully trained tensors.
        modules: that hold `full` in plain peft; None if it cannot hold them.
    """
    adapters, full = list(adapters), list(full)
    is_local = base.repository is None
    ours = "BASE" if is_local and base.name != "embedded" else base.name
    sections = {
        "What was trained": trained_text(base, adapters, full),
        "Plain peft": peft_text(base, adapters, full, modules),
        "With dsvl-tune": OWN.format(base=ours) + (LOCAL if is_local else ""),
    }
    body = "\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    made = (
        f"Written by dsvl-tune {VERSION} with transformers "
        f"{transformers.__version__} and peft {peft.__version__}."
    )
    return f"# An adapter, trained with dsvl-tune\n\n{made}\n\n{body}"


def readme_with_base(text: str, base: str) -> str:
    """The same README for a base that is on the hub.

    Args:
        text: of a README whose base is a local folder.
        base: OWNER/NAME.
    """
    text = re.sub(rf"`[^`]*` {re.escape(FOLDER_MARK)}", f"`{base}`", text.replace(LOCAL, ""))
    return re.sub(r"\bBASE\b", base, text)


def trained_text(base: Checkpoint, adapters: list[str], full: list[str]) -> str:
    """Base, and the number of tensors of each part."""
    name = f"`{base.repository}`, commit {base.commit}"
    if base.repository is None:
        name = f"`{public_name(base.name)}` {FOLDER_MARK}"
    lines = [f"- base: {name}, in the layout {layout_name(base)}"]
    for what, names in (("LoRA adapters", adapters), ("fully trained", full)):
        parts = Counter(part_of(name, base.family.parts) for name in names)
        if parts:
            counts = ", ".join(f"{part} ({count} tensors)" for part, count in parts.items())
            lines.append(f"- {what}: {counts}")
    return "\n".join(lines) + "\n"


def layout_name(base: Checkpoint) -> str:
    """The layout of the base, in a sentence."""
    return "of transformers" if base.layout == "transformers" else "of the original code"


def peft_text(
    base: Checkpoint, adapters: list[str], full: list[str], modules: list[str] | None
) -> str:
    """How plain peft loads the folder, or why it does not; the arguments of `adapter_readme`."""
    if not adapters:
        return NO_ADAPTER
    if not base.family.model_class(base.config).__module__.startswith("transformers."):
        return NO_NETWORK
    if modules is None:
        return REFUSED.format(count=len(full), name=full[0])
    current, earlier = TRANSFORMERS
    versions = {"transformers": current, "earlier": earlier, "peft": PEFT}
    if base.layout == "original":
        source = "BASE" if base.repository is None else base.name
        return CONVERTED.format(base=source) + PLAIN.format(base='"converted"', **versions)
    if base.repository is None:
        return PLAIN.format(base='"BASE"', **versions) + FOLLOWED.format(revision="")
    revision = f', revision="{base.commit}"'
    name = f'"{base.repository}"{revision}'
    return PLAIN.format(base=name, **versions) + FOLLOWED.format(revision=revision)
