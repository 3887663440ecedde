"""What Janus adds to the model card of a written checkpoint."""

from __future__ import annotations

from dsvl_tune.core.family import CardText
from dsvl_tune.families.deepseek_vl.files.card import TESTED_IN_TRANSFORMERS

LICENSE_LINK = "https://github.com/deepseek-ai/Janus/blob/main/LICENSE-MODEL"

# Our summary of paragraphs 4 and 5 of LICENSE-MODEL and of its Attachment A.
LICENSE = f"""\
The published Janus and Janus-Pro weights, and every model that began from them, are under the
DeepSeek Model License ([LICENSE-MODEL]({LICENSE_LINK})).
Commercial use is allowed. Whoever passes the weights on, or offers them as a service, hands over a
copy of the license, states the changes, and binds the receivers to its use restrictions
(Attachment A): among others nothing unlawful, no military use, no harm to minors, no disinformation
or harassment, no personal data without authorization, no fully automated decisions against a
person's rights, no discrimination and no exploiting of people's vulnerabilities. The text of the
license counts, not this summary.
"""

GENERATION = """\
dsvl-tune trains the understanding of images alone. The weights of image generation (autoencoder,
embeddings, aligner, head) are the base's, bit for bit; but they work with the language model, and
where that was trained, expect generated images to be worse than the base's.
"""

USE_IN_TRANSFORMERS = f"""\
    from transformers import AutoModelForImageTextToText, AutoProcessor
    model = AutoModelForImageTextToText.from_pretrained("FOLDER", dtype="auto")
    processor = AutoProcessor.from_pretrained("FOLDER", backend="pil")

The chat template takes plain strings or lists of parts, keeps images where they are in the text,
puts a system message in the place of the default prompt, ends every answer with the end token and
marks what the assistant says (`return_assistant_tokens_mask`).

{GENERATION}"""

USE_IN_THE_ORIGINAL = f"""\
In the layout of github.com/deepseek-ai/Janus (`MultiModalityCausalLM.from_pretrained("FOLDER")`);
transformers cannot load it. `dsvl-tune convert FOLDER DST --to transformers` makes what it can.

{GENERATION}"""

PIXELS = """\
The model was trained, and dsvl-tune runs it, on pixels made as in the original code. transformers'
image processor rounds the short side of a resized picture where the original truncates, which on
some sizes moves the picture by a pixel row; none of its settings changes that. Its processor also
refuses pictures that are not RGB (`image.convert("RGB")` first). """

TESTED_IN_THE_ORIGINAL = """\
No software but dsvl-tune has loaded an export of this family in this layout. Its files and names
of tensors are those that the loader of SGLang takes (commit 013902a), which was read and not run.
"""

CARD = CardText(
    title="Janus",
    license_front_matter={
        "license": "other",
        "license_name": "deepseek",
        "license_link": LICENSE_LINK,
    },
    license=LICENSE,
    use={"transformers": USE_IN_TRANSFORMERS, "original": USE_IN_THE_ORIGINAL},
    pixels=PIXELS,
    tested={"transformers": TESTED_IN_TRANSFORMERS, "original": TESTED_IN_THE_ORIGINAL},
)
