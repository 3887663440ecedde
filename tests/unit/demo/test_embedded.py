"""The checkpoint inside the package: small, whole, and it knows its own domain."""

from __future__ import annotations

from dsvl_tune.core.checkpoint import EMBEDDED
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.demo.scenes import scene_row
from dsvl_tune.evaluation.generation.generate import answer_prompts
from dsvl_tune.evaluation.metrics import RelaxedAccuracy
from dsvl_tune.evaluation.scoring import aggregate_scores
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model


def test_it_is_small_and_has_both_towers() -> None:
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 25e6
    assert (EMBEDDED / "README.md").is_file()
    model = create_model(open_checkpoint(EMBEDDED))
    assert model.config.model_type == "deepseek_vl_hybrid"
    assert model.config.tie_word_embeddings is False
    assert (
        float(model.model.high_res_vision_alpha.detach()) != 0
    )  # the first global SAM layer's path is alive


def test_it_answers_questions_of_its_own_domain() -> None:
    processor, model = open_checkpoint(EMBEDDED).processor, create_model(open_checkpoint(EMBEDDED))
    answers = []
    for start in range(0, 24, 8):
        rows = [scene_row(seed, "test") for seed in range(5000 + start, 5008 + start)]
        prompts = collate_prompts(
            [encode_prompt(c, processor) for row in rows for c in row], processor.pad_id
        )
        prompts = normalize_images(prompts, processor)
        answers += answer_prompts(model, processor.tokenizer, prompts, max_new_tokens=8)
    accuracy = aggregate_scores(answers, [RelaxedAccuracy()])["relaxed_accuracy"]
    assert accuracy >= 0.8, accuracy
