"""Load an export by DeepSeek-VL's own code and answer: CODE FOLDER ASKED OUT.

CODE is a checkout of github.com/deepseek-ai/DeepSeek-VL. Its towers are known by name only, so the
small ones of the test checkpoints are entered into its tables of names first.
"""

import json
import sys

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

code, folder, asked_file, out = sys.argv[1:5]
sys.path.insert(0, code)
# The original uses torchvision's transforms alone. A torchvision built for another torch (PyPI has
# those for CUDA) has no compiled part here, and stops at importing for want of these operators.
for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")

from deepseek_vl.models import VLChatProcessor  # noqa: E402
from deepseek_vl.models.sam import SAM_MODEL_CONFIG  # noqa: E402
from deepseek_vl.models.siglip_vit import SigLIP_MODEL_CONFIG  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

with open(f"{folder}/config.json", encoding="utf-8") as file:
    params = json.load(file)["vision_config"]["params"]
sizes = {"width", "layers", "heads", "mlp_ratio", "patch_size"}
for tower in (params.get("low_res_cfg", params), params.get("high_res_cfg", {})):
    name = tower.get("model_name", "")
    if name.startswith("siglip"):
        entry = {key: tower[key] for key in sizes & set(tower)}
        known = {"patch_size": 16, "image_size": tower["image_size"], "global_pool": "map"}
        SigLIP_MODEL_CONFIG.setdefault(name, {**known, **entry})
    elif name.startswith("sam"):
        keys = {"width", "layers", "heads", "global_attn_indexes", "prompt_embed_dim"}
        entry = {key: tower[key] for key in (keys | {"downsample_channels"}) & set(tower)}
        SAM_MODEL_CONFIG.setdefault(name, entry)

with open(asked_file, encoding="utf-8") as file:
    asked = json.load(file)
processor = VLChatProcessor.from_pretrained(folder)
model, loading = AutoModelForCausalLM.from_pretrained(
    folder, torch_dtype=torch.float32, output_loading_info=True
)
unused = ("attn_pool.", "high_layer_norm.", "low_layer_norm.")
missing = [key for key in loading["missing_keys"] if not any(part in key for part in unused)]
assert not missing and not loading["unexpected_keys"], loading
model = model.eval()
image = Image.open(asked["image"]).convert("RGB")
conversation = [
    {"role": "User", "content": f"<image_placeholder>{asked['question']}", "images": ["given"]},
    {"role": "Assistant", "content": ""},
]
prepared = processor(conversations=conversation, images=[image], force_batchify=True)
ids = prepared.input_ids.clone()
with torch.no_grad():
    embeddings = model.prepare_inputs_embeds(**prepared)
    mask = prepared.attention_mask
    logits = model.language_model(inputs_embeds=embeddings, attention_mask=mask).logits
    greedy = model.language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=mask,
        pad_token_id=processor.tokenizer.eos_token_id,
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
        max_new_tokens=asked["tokens"],
        do_sample=False,
    )
save_file({"input_ids": ids, "logits": logits.contiguous(), "greedy_ids": greedy}, out)
print(transformers.__version__)
