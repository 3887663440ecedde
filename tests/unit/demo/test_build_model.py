from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dsvl_tune.demo.build_model import build_embedded, build_tokenizer, save_checkpoint
from dsvl_tune.demo.init_weights import grid_waves
from dsvl_tune.demo.vocabulary import generator_texts
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model

GOLDEN = Path(__file__).parents[2] / "golden" / "hybrid" / "checkpoint"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(generator_texts())


def test_words_are_single_tokens_and_digits_single(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in (
        " red",
        " black",
        " largest",
        " ahead",
        " behind",
        " past",
        " six",
        " none",
        " yes",
        " no",
        " slice",
    ):
        assert len(tokenizer.tokenize(word)) == 1, word
    assert tokenizer.tokenize(" 45") == ["Ġ", "4", "5"]


def test_text_is_split_as_by_the_published_pre_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    golden = PreTrainedTokenizerFast.from_pretrained(GOLDEN)
    split = [t.backend_tokenizer.pre_tokenizer for t in (tokenizer, golden)]
    for text in ("User: Is red past 45?\n\nAssistant: short", "naïve 你好 (a,b) 3.14", "a  b\tc"):
        assert split[0].pre_tokenize_str(text) == split[1].pre_tokenize_str(text)


def test_a_checkpoint_goes_to_disk_and_back(tmp_path: Path) -> None:
    model, tokenizer = build_embedded(0, ["User: red 40\n\nAssistant: blue"])
    save_checkpoint(tmp_path, model, tokenizer)
    loaded = create_model(open_checkpoint(tmp_path))
    assert all(
        torch.equal(one, two)
        for one, two in zip(model.parameters(), loaded.parameters(), strict=True)
    )
    processor = open_checkpoint(tmp_path).processor
    assert processor.image_settings.tokens == 64 and processor.default_system == ""
    assert processor.eos_id == processor.pad_id == tokenizer.eos_token_id
    assert AutoTokenizer.from_pretrained(tmp_path)("red").input_ids == tokenizer("red").input_ids
    assert tokenizer("red").input_ids[0] == tokenizer.bos_token_id


def test_the_seed_draws_the_weights() -> None:
    one, two, three = (build_embedded(seed, ["red"])[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], three["lm_head.weight"])


def test_untrained_visual_tokens_differ_by_picture_and_by_place() -> None:
    model, _ = build_embedded(0, ["red"])
    low, high = torch.zeros(2, 3, 96, 96), torch.zeros(2, 3, 128, 128)
    low[1, :2, 24:36, 24:36], high[1, :2, 32:48, 32:48] = -3.0, -3.0  # the patch in row 2, column 2
    with torch.no_grad():
        towers = model.model.vision_model(low).last_hidden_state
    change = (towers[1] - towers[0]).norm(dim=-1)
    assert change.argmax() == 2 * 8 + 2
    assert (torch.cdist(towers[0], towers[0]) + 100 * torch.eye(64)).min() > 1.0


def test_position_waves_tell_every_cell_apart() -> None:
    waves = grid_waves(8, 128).flatten(0, 1)
    assert waves.shape == (64, 128)
    nearest = (torch.cdist(waves, waves) + 100 * torch.eye(64)).min(dim=1).values
    assert nearest.min() > 1.0


@torch.no_grad()
def test_two_heads_look_one_and_two_tokens_back() -> None:
    """Whatever the tokens are: the weights that transformers' own attention computes."""
    model, tokenizer = build_embedded(0, generator_texts())
    model.set_attn_implementation("eager")
    ids = torch.randint(3, len(tokenizer), (1, 40), generator=torch.Generator().manual_seed(1))
    weights = model(input_ids=ids, output_attentions=True).attentions[0][0]  # [heads, 40, 40]
    for head, back in enumerate((1, 2)):
        by_distance = [float(weights[head].diagonal(-distance)[5:].mean()) for distance in range(6)]
        assert max(range(6), key=by_distance.__getitem__) == back
        assert by_distance[back] > 0.5


@torch.no_grad()
def test_the_other_heads_see_what_is_alike_and_copy_it() -> None:
    model, _ = build_embedded(0, ["red"])
    attention = model.model.language_model.layers[1].self_attn
    query, key = attention.q_proj.weight.flatten(), attention.k_proj.weight.flatten()
    like = torch.nn.functional.cosine_similarity(query, key, dim=0)
    assert like > 0.9
    copied = attention.o_proj.weight @ attention.v_proj.weight
    assert copied.diagonal().mean() > 5 * (copied - copied.diagonal().diag()).abs().mean()
