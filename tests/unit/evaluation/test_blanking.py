"""Blanked vision inputs are those of a blank image, and no others change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.evaluation.blanking import blank_images, check_blanks
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.encode_images import encode_images


def test_each_blank_changes_what_it_names(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    processor, family = opened.processor, opened.family
    model = create_model(opened).eval()
    prompts = [encode_prompt(row, processor) for row in chart_row(1, "test")[:2]]
    batch = normalize_images(collate_prompts(prompts, processor.pad_id), processor)
    known = family.blankable_inputs(processor)
    assert "image" in known
    blank = family.blank_vision_inputs(processor)
    with torch.no_grad():
        whole = encode_images(model, batch)
        for name, inputs in known.items():
            found = blank_images(batch, processor, name)
            for key, tensor in found.vision_inputs.items():
                same = torch.equal(tensor, batch.vision_inputs[key])
                expected = blank[key][:1].expand_as(tensor)
                assert torch.equal(tensor, expected) if key in inputs else same
            others = encode_images(model, found)
            assert whole and others
            assert not torch.equal(whole["image"].pooler_output, others["image"].pooler_output)


def test_a_tower_that_the_model_does_not_have(checkpoint: Path) -> None:
    processor = open_checkpoint(checkpoint).processor
    known = sorted(processor.family.blankable_inputs(processor))
    check_blanks(known, processor, "--blank")
    with pytest.raises(UserError, match="unknown --blank 'vq'"):
        check_blanks([*known, "vq"], processor, "--blank")
