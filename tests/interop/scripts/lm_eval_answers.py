"""Evaluate an export with lm-evaluation-harness: FOLDER ASKED OUT.

One question on an image by its `hf-multimodal` model, and the likelihood of a continuation by `hf`.
OUT gets both.
"""

import json
import sys

import lm_eval
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from PIL import Image
from transformers import AutoModelForImageTextToText

folder, asked_file, out = sys.argv[1:4]
with open(asked_file, encoding="utf-8") as file:
    asked = json.load(file)
row = {"question": f"<image>{asked['question']}", "answer": "", "image": asked["image"]}
task = ConfigurableTask(
    config={
        "task": "asked",
        "custom_dataset": lambda **_: {"test": Dataset.from_list([row])},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_image": lambda doc: [Image.open(doc["image"]).convert("RGB")],
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": asked["tokens"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
)
seeing = HFMultimodalLM(folder, dtype="float32", device="cpu", batch_size=1)
# Its prompts begin with the template's start token, and tokenizing them would add another one.
seeing.tokenizer.add_bos_token = False
results = lm_eval.simple_evaluate(
    seeing, tasks=[task], apply_chat_template=True, log_samples=True, bootstrap_iters=0
)
answer = results["samples"]["asked"][0]["resps"][0][0]

model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
reading = HFLM(model, tokenizer=folder, batch_size=1)
pair = ("The sky is", " blue today.")
request = Instance("loglikelihood", {}, pair, 0)
[(likelihood, _)] = reading.loglikelihood([request], disable_tqdm=True)
with open(out, "w", encoding="utf-8") as file:
    json.dump({"answer": answer, "pair": pair, "likelihood": likelihood}, file)
print(lm_eval.__version__)
