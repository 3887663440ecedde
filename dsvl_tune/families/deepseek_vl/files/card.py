"""What DeepSeek-VL adds to the model card of a written checkpoint."""

from __future__ import annotations

from dsvl_tune.core.family import CardText
from dsvl_tune.core.interop import LM_EVAL, ORIGINAL_TRANSFORMERS, TRANSFORMERS, TRL, VLLM

LICENSE_LINK = "https://github.com/deepseek-ai/DeepSeek-VL/blob/main/LICENSE-MODEL"

# Our summary of paragraphs 4 and 5 of LICENSE-MODEL and of its Attachment A.
LICENSE = f"""\
The published DeepSeek-VL weights, and every model that began from them, are under the
DeepSeek Model License ([LICENSE-MODEL]({LICENSE_LINK})).
Commercial use is allowed. Whoever passes the weights on, or offers them as a service, hands over a
copy of the license, states the changes, and binds the receivers to its use restrictions
(Attachment A): among others nothing unlawful, no military use, no harm to minors, no disinformation
or harassment, no personal data without authorization, no fully automated decisions against a
person's rights, no discrimination and no exploiting of people's vulnerabilities. The text of the
license counts, not this summary.
"""

USE_IN_TRANSFORMERS = """\
    from transformers import AutoModelForImageTextToText, AutoProcessor
    model = AutoModelForImageTextToText.from_pretrained("FOLDER", dtype="auto")
    processor = AutoProcessor.from_pretrained("FOLDER", backend="pil")

The chat template takes plain strings or lists of parts, puts a system message in the place of the
default prompt, ends every answer with the end token and marks what the assistant says
(`return_assistant_tokens_mask`). TRL trains on every token of a conversation, those of the images
included, unless it gets `assistant_only_loss=True`, which reads these marks.
"""

USE_IN_THE_ORIGINAL = """\
In the layout of github.com/deepseek-ai/DeepSeek-VL
(`MultiModalityCausalLM.from_pretrained("FOLDER")`); transformers cannot load it.
`dsvl-tune convert FOLDER DST --to transformers` makes what it can.
"""

PIXELS = """\
The model was trained, and dsvl-tune runs it, on pixels made as in the original code. transformers'
image processor differs in two ways that none of its settings can change: it rounds the short side
of a resized image where the original truncates, which on some sizes moves the image by a pixel
row, and it makes SigLIP's input of the hybrid models from 8-bit pixels. Its processor also refuses
images that are not RGB (`image.convert("RGB")` first). """

TESTED_IN_TRANSFORMERS = f"""\
The tests of dsvl-tune load exports of small models of this family in transformers
{TRANSFORMERS[0]} and {TRANSFORMERS[1]}: no missing keys, the same token ids, logits and greedy
answers as dsvl-tune, by `generate` and by `pipeline`. lm-eval {LM_EVAL} gives the same answers and
log-likelihoods, and TRL {TRL} goes on training them. Other releases were not run, and no GPU.
"""

TESTED_IN_VLLM = f"""\
vLLM {VLLM} (CPU build, float32) serves them with dsvl-tune's plugin, and answers the same.
"""

TESTED_IN_THE_ORIGINAL = f"""\
The tests of dsvl-tune load exports of small models of this family in the code of
github.com/deepseek-ai/DeepSeek-VL (commit 681bffb) with transformers {ORIGINAL_TRANSFORMERS}: the
same token ids, logits and greedy answers as dsvl-tune.
"""

CARD = CardText(
    title="DeepSeek-VL",
    license_front_matter={
        "license": "other",
        "license_name": "deepseek",
        "license_link": LICENSE_LINK,
    },
    license=LICENSE,
    use={"transformers": USE_IN_TRANSFORMERS, "original": USE_IN_THE_ORIGINAL},
    pixels=PIXELS,
    tested={
        "transformers": TESTED_IN_TRANSFORMERS + TESTED_IN_VLLM,
        "original": TESTED_IN_THE_ORIGINAL,
    },
)
