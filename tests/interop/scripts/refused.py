"""Load exports that transformers has no class for, each of which must be refused: FOLDER..."""

import sys

import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, pipeline

for folder in sys.argv[1:]:
    for load in (
        AutoModelForImageTextToText.from_pretrained,
        AutoModelForCausalLM.from_pretrained,
        lambda name: pipeline("image-text-to-text", model=name),
    ):
        said = "nothing: it was loaded"
        try:
            load(folder)
        except ValueError as error:
            said = str(error)
        assert "does not recognize this architecture" in said, (folder, said)
print(transformers.__version__)
