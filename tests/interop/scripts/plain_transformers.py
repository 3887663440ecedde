"""Load an export by transformers alone and answer: FOLDER INPUTS OUT.

Runs in environments without dsvl-tune. INPUTS (safetensors) has the arguments of the model, OUT
gets its logits and greedy ids, and those for what the export's own processor makes of the question.
"""

import json
import sys

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

folder, inputs, out = sys.argv[1:4]
with open(inputs.replace(".safetensors", ".json"), encoding="utf-8") as file:
    asked = json.load(file)
content = [{"type": "image", "image": Image.open(asked["image"]).convert("RGB")}]
messages = [{"role": "user", "content": [*content, {"type": "text", "text": asked["question"]}]}]

processor = AutoProcessor.from_pretrained(folder)
model, loading = AutoModelForImageTextToText.from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True
)
for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not loading[fault], (fault, loading[fault])
own = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
given = load_file(inputs)
greedy = {"max_new_tokens": asked["tokens"], "do_sample": False}
with torch.no_grad():
    found = {
        "logits": model(**given).logits,
        "greedy_ids": model.generate(**given, **greedy)[:, given["input_ids"].shape[1] :],
        "own_input_ids": own["input_ids"],
        "own_logits": model(**own).logits,
        "own_greedy_ids": model.generate(**own, **greedy)[:, own["input_ids"].shape[1] :],
    }
save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
pipe = pipeline("image-text-to-text", model=folder, dtype=torch.float32)
answer = pipe(text=messages, return_full_text=False, max_new_tokens=asked["tokens"])
text = processor.tokenizer.decode(found["own_greedy_ids"][0], skip_special_tokens=True)
assert answer[0]["generated_text"].strip() == text.strip(), (answer, text)
print(transformers.__version__)
