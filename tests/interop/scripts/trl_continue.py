"""Go on training an export with TRL: FOLDER ADAPTER ASKED.

FOLDER is a merged checkpoint, ADAPTER a peft folder that names its base. Two steps each, on the
assistant's tokens alone; ASKED has the image and the question.
"""

import json
import sys
import tempfile

import torch
import trl
from datasets import Dataset
from peft import AutoPeftModel, LoraConfig
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

folder, adapter, asked_file = sys.argv[1:4]
with open(asked_file, encoding="utf-8") as file:
    asked = json.load(file)
row = {
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A badge."}]},
    ],
    "images": [Image.open(asked["image"]).convert("RGB")],
}
processor = AutoProcessor.from_pretrained(folder)
config = LoraConfig(target_modules=r".*language_model.*\.(q|v)_proj", r=2)
models = {
    "merged": (AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32), config),
    "adapter": (AutoPeftModel.from_pretrained(adapter, is_trainable=True), None),
}
for name, (model, peft_config) in models.items():
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=out,
                max_steps=2,
                per_device_train_batch_size=1,
                learning_rate=1e-3,
                max_length=None,
                assistant_only_loss=True,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_steps=1,
            ),
            train_dataset=Dataset.from_list([row] * 2),
            processing_class=processor,
            peft_config=peft_config,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        supervised = batch["labels"][0] >= 0
        text = processor.tokenizer.decode(batch["input_ids"][0][supervised])
        assert text.strip() == "A badge." + processor.tokenizer.eos_token, repr(text)
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in trained]
        loss = trainer.train().training_loss
        assert loss == loss and any(
            not torch.equal(*pair) for pair in zip(before, trained, strict=True)
        ), (name, loss)
print(trl.__version__)
