"""What DeepSeek-VL2 adds to the model card of a written checkpoint."""

from __future__ import annotations

from dsvl_tune.core.family import CardText
from dsvl_tune.core.interop import TRANSFORMERS, VLLM

LICENSE_LINK = "https://github.com/deepseek-ai/DeepSeek-VL2/blob/main/LICENSE-MODEL"

LICENSE = f"""\
The published DeepSeek-VL2 weights, and every model that began from them, are under the
DeepSeek Model License ([LICENSE-MODEL]({LICENSE_LINK})), which allows commercial use. Whoever
passes the weights on, or offers them as a service, hands over a copy of the license and binds the
receivers to its use restrictions (Attachment A). The text of the license counts, not this summary.
"""

USE_IN_TRANSFORMERS = """\
transformers has no class of DeepSeek-VL2; dsvl-tune brings one, composed of transformers' blocks:

    import dsvl_tune.families.deepseek_vl2.modeling  # makes the model known to transformers
    from transformers import AutoModelForImageTextToText
    model = AutoModelForImageTextToText.from_pretrained("FOLDER", dtype="auto")

Or with pictures cut into tiles as in training: `dsvl_tune.load_model("FOLDER").answer(...)`.
"""

USE_IN_THE_ORIGINAL = """\
In the layout of github.com/deepseek-ai/DeepSeek-VL2
(`DeepseekVLV2ForCausalLM.from_pretrained("FOLDER")`), which vLLM serves too. The chat template is
for servers; that code has the prompt in itself.
"""

PIXELS = """\
A picture is cut into up to nine tiles as in the original code; more than two pictures in a
conversation are not cut. transformers has no processor that does this.
"""

TESTED_IN_TRANSFORMERS = f"""\
transformers {TRANSFORMERS[0]} and {TRANSFORMERS[1]} have no class for this model without dsvl-tune,
and refuse it.
"""

TESTED_IN_VLLM = f"""\
The tests of dsvl-tune serve exports of a small model of this family by vLLM {VLLM} (CPU build,
float32): the same token ids, and the same greedy answers where its vision tower has the patches of
the original code. As released it pads a picture to 28 x 28 patches, where the original code has
27 x 27, and answers otherwise about pictures. The original code itself was not run, and no GPU.
"""

CARD = CardText(
    title="DeepSeek-VL2",
    license_front_matter={
        "license": "other",
        "license_name": "deepseek",
        "license_link": LICENSE_LINK,
    },
    license=LICENSE,
    use={"transformers": USE_IN_TRANSFORMERS, "original": USE_IN_THE_ORIGINAL},
    pixels=PIXELS,
    has_image_processor=False,
    tested={"transformers": TESTED_IN_TRANSFORMERS, "original": TESTED_IN_VLLM},
)
