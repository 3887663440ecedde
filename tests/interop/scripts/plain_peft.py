"""Load an adapter by peft and by transformers, and compute logits: BASE ADAPTER INPUTS OUT.

Runs in environments without dsvl-tune. INPUTS (safetensors) has the arguments of the model, OUT
gets the logits of both ways to load, and those of the base alone.
"""

import sys

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

base, adapter, inputs, out = sys.argv[1:5]


def load(folder: str) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


given = load_file(inputs)
models = {
    "base": load(base),
    "PeftModel": PeftModel.from_pretrained(load(base), adapter),
    "AutoModelForImageTextToText": load(adapter),
}
with torch.no_grad():
    save_file({name: model.eval()(**given).logits for name, model in models.items()}, out)
print(transformers.__version__)
