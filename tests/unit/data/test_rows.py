"""Message trees, the attention mask they need, and batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Conversation, ImageRef, Sample, Turn
from dsvl_tune.data.encoding.collate import collate, collate_prompts
from dsvl_tune.data.encoding.packing import merge_tree, pack, pack_padding, tree_key
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.models.runtime.attention_mask import attention_mask, mask_rule

RED = ImageRef(Image.new("RGB", (40, 20), "red"), "red")
BLUE = ImageRef(Image.new("RGB", (20, 40), "blue"), "blue")


def ask(question: str, answer: str, *images: ImageRef, system: str | None = "") -> Conversation:
    return Conversation(
        (Turn("user", (*images, question)), Turn("assistant", (answer,))),
        question,
        system,
        question_type=answer,
    )


def branch(row: Sample, number: int) -> list[tuple[int, int, float, int]]:
    """The tokens that a branch of the row attends to: the prefix and its own."""
    columns = zip(
        row.input_ids, row.labels, row.loss_weights, row.position_ids, row.branch_ids, strict=True
    )
    return [column[:4] for column in columns if column[4] in (0, number)]


def test_every_branch_of_a_tree_is_its_conversation_alone(processor: Processor) -> None:
    rows = [
        ask("Which?", "left", RED, BLUE),
        ask("Which one?", "right", RED, BLUE),
        ask("How many?", "two", RED, BLUE),
    ]
    two_turns = replace(rows[0], turns=rows[0].turns + ask("Sure?", "yes").turns)
    samples = [encode(row, processor) for row in (*rows, two_turns)]
    row = merge_tree(samples)
    for number, sample in enumerate(samples, start=1):
        assert branch(row, number) == branch(sample, 0)
    tokens = processor.image_settings.tokens
    assert row.input_ids.count(processor.image_token_id) == 2 * tokens
    assert [stop - start for start, stop in row.image_spans] == [tokens, tokens]
    assert [image.name for image in row.images] == ["red", "blue"]
    assert row.sources == ["Which?", "Which one?", "How many?", "Which?"]


def test_a_supervised_token_follows_one_of_its_own_branch(processor: Processor) -> None:
    """Questions that are equal to the last token: the prefix must stop before it."""
    samples = [
        encode(ask("Which?", answer, RED), processor) for answer in ("left", "leftmost", "left")
    ]
    row = merge_tree(samples)
    supervised = [t for t, label in enumerate(row.labels) if label != IGNORE_INDEX]
    assert all(row.branch_ids[t] == row.branch_ids[t - 1] != 0 for t in supervised)
    assert (
        row.branch_ids.count(0)
        == branch(samples[0], 0).index(next(c for c in branch(samples[0], 0) if c[2])) - 1
    )


def test_one_sample_is_its_own_tree(processor: Processor) -> None:
    sample = encode(ask("Which?", "left", RED), processor)
    assert merge_tree([sample]) is sample


def test_trees_refuse_what_does_not_share_a_beginning(processor: Processor) -> None:
    def joined(*rows: Conversation) -> Sample:
        return merge_tree([encode(row, processor) for row in rows])

    with pytest.raises(ValueError, match="same images"):
        joined(ask("a", "b", RED), ask("a", "b", BLUE))
    with pytest.raises(ValueError, match="begin alike"):
        joined(ask("a", "b", RED, system="x"), ask("a", "b", RED, system="y"))
    late = replace(ask("a", "b", RED), turns=ask("a", "b").turns + ask("c", "d", RED).turns)
    with pytest.raises(ValueError, match="begin alike"):
        joined(late, ask("a", "b", RED))


def test_tree_key_is_equal_for_what_fits_together(processor: Processor) -> None:
    rows = [
        ask("a", "b", RED),
        ask("c", "d", RED),
        ask("a", "b", RED, system="x"),
        ask("a", "b", RED, BLUE),
    ]
    keys = [tree_key(row) for row in rows]
    assert keys[0] == keys[1] and len(set(keys)) == 3
    assert tree_key(ask("a", "b")) is None
    assert tree_key(replace(rows[0], turns=rows[0].turns + ask("a", "b", BLUE).turns)) is None
    before = Conversation((Turn("user", ("Look: ", RED, "a")), Turn("assistant", ("b",))), "o", "")
    assert tree_key(before) != keys[0]


def test_mask_shows_prefix_and_own_branch_only() -> None:
    branches = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, -1, -1]])
    mask = attention_mask(branches.clamp(max=0), branches)
    assert mask.shape == (2, 1, 6, 6) and mask.dtype == torch.bool
    sees = [[list(map(int, row.nonzero().flatten())) for row in grid[0]] for grid in mask]
    assert sees[0] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5]]
    assert sees[1] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [4], [4, 5]]


def test_members_of_a_packed_row_do_not_attend_to_each_other() -> None:
    """A tree of two branches, a conversation, and padding; both kernels have the same mask."""
    segments, branches = (
        torch.tensor([[0, 0, 0, 0, 1, 1, -1]]),
        torch.tensor([[0, 1, 2, 2, 0, 0, -1]]),
    )
    mask = attention_mask(segments, branches)
    sees = [list(map(int, row.nonzero().flatten())) for row in mask[0, 0]]
    assert sees == [[0], [0, 1], [0, 2], [0, 2, 3], [4], [4, 5], [6]]
    rule = mask_rule(segments, branches)
    assert torch.equal(create_mask(rule, 1, None, 7, 7, device="cpu"), mask)


def test_flex_attention_equals_scaled_dot_product_attention() -> None:
    """Forward only: FlexAttention has no backward pass on a CPU. Long enough to skip blocks."""
    draw = torch.Generator().manual_seed(5)
    members = [(segment, branch) for segment in range(4) for branch in (0, 1, 2) for _ in range(40)]
    segments, branches = torch.tensor([[*members, (-1, -1), (-1, -1)]]).unbind(-1)
    query, key, value = torch.randn(3, 1, 2, segments.shape[1], 16, generator=draw)
    length = segments.shape[1]
    blocks = create_block_mask(mask_rule(segments, branches), 1, None, length, length, device="cpu")
    assert blocks.sparsity() > 0
    plain = scaled_dot_product_attention(query, key, value, attention_mask(segments, branches))
    torch.testing.assert_close(
        flex_attention(query, key, value, block_mask=blocks), plain, atol=1e-6, rtol=1e-5
    )


def columns(row: Sample, segment: int) -> list[tuple[int, int, float, int, int]]:
    """The tokens of a member of a row."""
    named = (row.input_ids, row.labels, row.loss_weights, row.position_ids, row.branch_ids)
    return [column for *column, own in zip(*named, row.segment_ids, strict=True) if own == segment]


def test_every_segment_of_a_packed_row_is_its_sample_alone(processor: Processor) -> None:
    asked = [encode(ask(question, "a", RED), processor) for question in ("Which?", "How?")]
    shown: list[tuple[int, tuple[ImageRef, ...]]] = [(3, ()), (9, (BLUE, RED)), (1, ())]
    samples = [encode(ask("word " * n, f"{n}", *images), processor) for n, images in shown]
    samples.insert(1, merge_tree(asked))
    (row,) = pack(samples, 10_000)
    assert [columns(row, segment) for segment in range(4)] == [
        columns(sample, 0) for sample in samples
    ]
    assert row.images == [image for sample in samples for image in sample.images]
    assert len(row.image_spans) == len(row.images)
    for start, stop in row.image_spans:
        assert set(row.input_ids[start:stop]) == {processor.image_token_id}
    assert row.sources == [source for sample in samples for source in sample.sources]


@pytest.mark.parametrize(
    ("lengths", "limit", "rows"),
    [((5, 5, 5), 15, [15]), ((5, 5, 5), 14, [10, 5]), ((9, 2), 4, [9, 2])],
)
def test_packed_rows_are_as_few_as_fit(
    lengths: tuple[int, ...], limit: int, rows: list[int]
) -> None:
    assert [len(row.input_ids) for row in pack(of_lengths(*lengths), limit)] == rows


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ((600, 20, 30, 40), [600, 90]),
        ((600, 500, 550, 110), [600, 500, 550, 110]),  # nothing to gain
        ((600, 300, 600, 300), [600, 600, 600]),  # the quarter that the mask may cost
        ((600, 400, 600, 300), [600, 400, 600, 300]),
        ((600,), [600]),
    ],
)
def test_rows_are_packed_unasked_where_a_quarter_of_the_padded_tokens_is_saved(
    lengths: tuple[int, ...], rows: list[int]
) -> None:
    assert [len(row.input_ids) for row in pack_padding(of_lengths(*lengths))] == rows


def of_lengths(*lengths: int) -> list[Sample]:
    return [
        Sample([1] * n, [1] * n, [1.0] * n, list(range(n)), [0] * n, [0] * n, [], [])
        for n in lengths
    ]


def test_batch_pads_right_and_holds_each_image_once(processor: Processor) -> None:
    rows = [
        ask("a", "b", RED, BLUE, RED),
        ask("longer question, longer row", "b"),
        ask("c", "d", BLUE),
    ]
    samples = [encode(row, processor) for row in rows]
    batch = collate(samples, processor.pad_id)
    width = max(len(sample.input_ids) for sample in samples)
    for i, sample in enumerate(samples):
        length = len(sample.input_ids)
        assert batch.input_ids[i].tolist() == sample.input_ids + [processor.pad_id] * (
            width - length
        )
        assert batch.labels[i].tolist() == sample.labels + [IGNORE_INDEX] * (width - length)
        assert (
            batch.branch_ids[i].tolist()
            == batch.segment_ids[i].tolist()
            == [0] * length + [-1] * (width - length)
        )
        assert batch.position_ids[i].tolist() == sample.position_ids + [0] * (width - length)
    assert batch.loss_weights.dtype == torch.float32 and batch.position_ids.dtype == torch.int64
    assert batch.image_index.tolist() == [0, 1, 0, 1]
    assert set(batch.vision_inputs) == {"pixel_values"} and batch.images == 2
    pixels = batch.vision_inputs["pixel_values"]
    assert pixels.shape == (2, 3, 32, 32) and pixels.dtype == torch.uint8
    assert torch.equal(pixels[1:], samples[2].images[0].tensors["pixel_values"])
    # One end token in each row is supervised, although padding has its id.
    assert (batch.labels == processor.eos_id).sum() == 3


def test_text_only_batch_has_no_pixels(processor: Processor) -> None:
    batch = collate([encode(ask("a", "b"), processor)], processor.pad_id)
    assert batch.vision_inputs == {} and batch.images == 0 and batch.image_index.tolist() == []
    assert batch.image_index.dtype == torch.int64


def test_prompts_pad_left(processor: Processor) -> None:
    rows = [ask("a", "b", RED), ask("a much longer question", "c", RED)]
    prompts = collate_prompts([encode_prompt(row, processor) for row in rows], processor.pad_id)
    lengths = prompts.attention_mask.sum(1).tolist()
    assert lengths[0] < lengths[1] == prompts.input_ids.shape[1]
    assert prompts.attention_mask[0].tolist() == sorted(prompts.attention_mask[0].tolist())
    assert processor.tokenizer.decode(
        prompts.input_ids[0, -lengths[0] :]
    ) == processor.tokenizer.decode(encode_prompt(rows[0], processor).input_ids)
    assert prompts.image_index.tolist() == [0, 0]
    assert (prompts.references, prompts.question_types) == ([["b"], ["c"]], ["b", "c"])
