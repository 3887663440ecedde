"""Rendering and tokenizing: what is refused, and that pieces tokenize as the whole does."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor, RenderMode, Segment
from dsvl_tune.core.types import IGNORE_INDEX, Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt, token_ids, tokenize
from dsvl_tune.families.deepseek_vl.family import DeepSeekVL
from dsvl_tune.families.deepseek_vl.prompt import render

MODES: tuple[RenderMode, ...] = ("training", "generation")
PIC = ImageRef(Image.new("RGB", (4, 4)), "pic")


def talk(*texts: str, system: str | None = "", weight: float = 1.0) -> Conversation:
    turns = [
        Turn("assistant" if i % 2 else "user", (text,), weight) for i, text in enumerate(texts)
    ]
    return Conversation(tuple(turns), "rows.jsonl:3", system)


def test_whitespace_is_stripped_from_turns_but_not_next_to_images(processor: Processor) -> None:
    row = Conversation(
        (Turn("user", ("  ", " \n", PIC, " a ", "b \n", PIC, "\n ")), Turn("assistant", (" x ",))),
        "o",
        "",
    )
    contents = [segment.content for segment in render(row, processor, "training")]
    assert contents == ["User: ", PIC, " a b \n", PIC, "\n\nAssistant:", " x<｜end▁of▁sentence｜>"]


def test_weights_follow_the_turns(processor: Processor) -> None:
    turns = (
        Turn("user", ("a",)),
        Turn("assistant", ("b",), 0.0),
        Turn("user", ("c",)),
        Turn("assistant", ("d",), 0.5),
    )
    sample = encode(Conversation(turns, "o", ""), processor)
    supervised = [
        (token, w)
        for token, w in zip(sample.labels, sample.loss_weights, strict=True)
        if token != IGNORE_INDEX
    ]
    assert (
        processor.tokenizer.decode([token for token, _ in supervised]) == " d<｜end▁of▁sentence｜>"
    )
    assert {weight for _, weight in supervised} == {0.5}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (talk(), "no turns"),
        (talk("hello"), "no answer"),
        (talk("hello", "  \n"), "turn 2 .assistant.: empty"),
        (talk("", "yes"), "turn 1 .user.: empty"),
        (talk("a", "b", weight=0.0), "nothing is supervised"),
        (
            Conversation((Turn("assistant", ("a",)), Turn("user", ("b",))), "rows.jsonl:3"),
            "turn 1 is of role 'assistant'",
        ),
        (
            Conversation((Turn("user", ("a",)), Turn("user", ("b",))), "rows.jsonl:3"),
            "turn 2 is of role 'user'",
        ),
        (
            Conversation((Turn("user", ("a",)), Turn("assistant", (PIC,))), "rows.jsonl:3"),
            "image in an answer",
        ),
        (talk("half a \ud83d character", "b"), "half a character.*surrogates"),
        (talk("see <image_placeholder>", "b"), "special token"),
        (talk("a", "b<｜end▁of▁sentence｜>"), "special token"),
        (talk("a<｜begin▁of▁sentence｜>", "b"), "special token"),
        (talk("a", "b", system="<image_placeholder>"), "system prompt.*special token"),
    ],
)
def test_refused(row: Conversation, words: str, processor: Processor) -> None:
    with pytest.raises(UserError, match=words) as error:
        render(row, processor, "training")
    assert "rows.jsonl:3" in str(error.value)


def test_pieces_tokenize_as_the_whole_string_does(processor: Processor) -> None:
    chance = random.Random(5)
    alphabet = [*"aBé \n\t7.(图。😀_", "  ", "42", "--", "\u200b", "\u00a0", "'s"]
    for _ in range(300):
        texts = ["x" + "".join(chance.choices(alphabet, k=chance.randint(0, 12))) for _ in range(4)]
        texts[1] = texts[1][1:] + "!"  # answers may begin with any character
        row = talk(*texts, system=chance.choice(["", None, "Be brief. "]))
        for mode in MODES:
            whole = "".join(str(segment.content) for segment in render(row, processor, mode))
            ids = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
            assert tokenize(row, processor, mode).input_ids == [processor.bos_id, *ids], whole


def test_a_shorter_conversation_is_rendered_as_the_beginning(processor: Processor) -> None:
    turns = (
        Turn("user", ("one", PIC)),
        Turn("assistant", ("answer one",), 0.0),
        Turn("user", (PIC, "two", PIC)),
        Turn("assistant", ("answer two",)),
        Turn("user", ("three",)),
        Turn("assistant", ("answer three",)),
    )
    for mode in MODES:
        segments = render(Conversation(turns, "o", "Be brief."), processor, mode)
        shorter = render(Conversation(turns[:4], "o", "Be brief."), processor, mode)
        shown = 4 if mode == "training" else 3
        assert shorter == [segment for segment in segments if segment.turn < shown]


def test_prompt_and_reference(processor: Processor) -> None:
    row = Conversation(
        (Turn("user", (PIC, " Why?")), Turn("assistant", (" Because. ",))),
        "o",
        "",
        question_type="why",
    )
    prompt = encode_prompt(row, processor)
    assert prompt.references == ("Because.",)
    assert (prompt.question, prompt.question_type) == ("Why?", "why")
    assert processor.tokenizer.decode(prompt.input_ids).endswith(" Why?\n\nAssistant:")
    open_row = Conversation(row.turns[:1], "o", "")
    assert encode_prompt(open_row, processor).input_ids == prompt.input_ids
    assert encode_prompt(open_row, processor).references == ()
    accepted = replace(row, references=("Because.", "Since it is."))
    assert encode_prompt(accepted, processor).references == ("Because.", "Since it is.")


def test_too_long_is_an_error_with_the_numbers(processor: Processor) -> None:
    row = Conversation((Turn("user", (PIC, "a")), Turn("assistant", ("b",))), "rows.jsonl:3", "")
    length = len(tokenize(row, processor).input_ids)
    assert len(tokenize(row, processor, max_tokens=length).input_ids) == length
    with pytest.raises(
        UserError, match=rf"rows.jsonl:3: {length} tokens, 4 of them .* limit is {length - 1}"
    ):
        tokenize(row, processor, max_tokens=length - 1)


def test_truncation_drops_pairs_then_the_end_of_the_answer(processor: Processor) -> None:
    row = talk("one", "answer one", "two", "answer two", "three", "answer three")
    lengths = [
        len(tokenize(talk(*[t.parts[0] for t in row.turns[:n]]), processor).input_ids)
        for n in (2, 4, 6)
    ]
    assert tokenize(row, processor, max_tokens=lengths[2], on_overflow="truncate") == tokenize(
        row, processor
    )
    two = talk("one", "answer one", "two", "answer two")
    for limit in (lengths[1], lengths[2] - 1):
        assert tokenize(row, processor, max_tokens=limit, on_overflow="truncate") == tokenize(
            two, processor
        )
    one = tokenize(talk("one", "answer one"), processor)
    cut = tokenize(row, processor, max_tokens=lengths[0] - 2, on_overflow="truncate")
    assert cut.input_ids == one.input_ids[:-2] and cut.labels == one.labels[:-2]
    assert processor.eos_id not in cut.input_ids

    shortest = one.labels.index(next(label for label in one.labels if label != IGNORE_INDEX)) + 1
    assert (
        tokenize(row, processor, max_tokens=shortest, on_overflow="truncate").labels[-1]
        != IGNORE_INDEX
    )
    with pytest.raises(UserError, match="come before the first supervised one"):
        tokenize(row, processor, max_tokens=shortest - 1, on_overflow="truncate")


def test_truncation_never_cuts_an_image_and_keeps_a_supervised_pair(
    processor: Processor,
) -> None:
    late = (
        Turn("user", ("a",)),
        Turn("assistant", ("b",), 0.0),
        Turn("user", (PIC, "c")),
        Turn("assistant", ("d",)),
    )
    with pytest.raises(UserError, match="come before"):
        tokenize(Conversation(late, "o", ""), processor, max_tokens=20, on_overflow="truncate")
    pairs = (
        Turn("user", ("a",)),
        Turn("assistant", ("b",)),
        Turn("user", (PIC, "c")),
        Turn("assistant", ("d",)),
    )
    kept = tokenize(Conversation(pairs, "o", ""), processor, max_tokens=20, on_overflow="truncate")
    assert kept.images == [] and processor.image_token_id not in kept.input_ids


def test_truncated_prompt_asks_the_last_question_left(processor: Processor) -> None:
    row = talk("one", "answer one", "two", "answer two")
    limit = len(encode_prompt(row, processor).input_ids) - 1
    prompt = encode_prompt(row, processor, limit, "truncate")
    assert (prompt.question, prompt.references) == ("one", ("answer one",))
    several = replace(row, references=("answer two", "the second"))
    prompt = encode_prompt(several, processor, limit, "truncate")
    assert (prompt.question, prompt.references) == ("one", ("answer one",))


def drop_pairs_one_by_one(
    row: Conversation, processor: Processor, mode: RenderMode, limit: int
) -> Conversation:
    """Truncation by its definition: every shorter conversation is tokenized as a whole."""
    turns = row.turns
    while len(turns) > 2:
        ids = tokenize(replace(row, turns=turns), processor, mode, 1 << 60).input_ids
        fewer = turns[:-2] if turns[-1].role == "assistant" else turns[:-1]
        supervised = any(turn.role == "assistant" and turn.weight > 0 for turn in fewer)
        if len(ids) <= limit or (mode == "training" and not supervised):
            break
        turns = fewer
    return replace(row, turns=turns)


def test_truncation_is_dropping_pairs_one_by_one(processor: Processor) -> None:
    draw = random.Random(7)
    texts = ["short", "a longer text of some words", "<b>?"]
    for _ in range(200):
        turns: list[Turn] = []
        for _ in range(draw.randint(1, 6)):
            images = draw.choice([(), (), (PIC,), (PIC, PIC)])
            turns.append(Turn("user", (*images, draw.choice(texts))))
            turns.append(Turn("assistant", (draw.choice(texts),), draw.choice([0.0, 1.0])))
        turns[-1] = replace(turns[-1], weight=1.0)
        for mode, shown in (("training", turns), ("generation", turns[: draw.choice([-1, 99])])):
            row = Conversation(tuple(shown), "o", "")
            limit = draw.randint(1, 120)
            wanted = drop_pairs_one_by_one(row, processor, mode, limit)
            whole = tokenize(wanted, processor, mode, 1 << 60)
            try:
                found = tokenize(row, processor, mode, limit, "truncate")
            except UserError:
                supervised = any(whole.loss_weights[:limit])
                assert len(whole.input_ids) > limit and not supervised
                continue
            assert found.input_ids == whole.input_ids[:limit]
            assert found.image_spans == whole.image_spans
            if mode == "generation":
                prompt = encode_prompt(row, processor, limit, "truncate")
                assert prompt.input_ids == found.input_ids
                assert prompt.question == wanted.question


class CountingFamily(DeepSeekVL):
    """Counts how often a conversation is rendered."""

    def __init__(self) -> None:
        self.renderings = 0

    def render(
        self, conversation: Conversation, processor: Processor, mode: RenderMode
    ) -> list[Segment]:
        self.renderings += 1
        return super().render(conversation, processor, mode)


@pytest.mark.parametrize("mode", MODES)
def test_truncation_renders_once_and_tokenizes_each_segment_once(
    processor: Processor, mode: RenderMode
) -> None:
    family = CountingFamily()
    processor = replace(processor, family=family)
    texts = [f"{'answer' if i % 2 else 'question'} number {i}" for i in range(120)]
    row = talk(*texts)
    limit = len(tokenize(talk(*texts[:6]), processor, mode).input_ids)
    segments = len(render(row, processor, mode))
    family.renderings = 0
    before = token_ids.cache_info()
    if mode == "training":
        ids = tokenize(row, processor, mode, limit, "truncate").input_ids
    else:
        ids = encode_prompt(row, processor, limit, "truncate").input_ids
    after = token_ids.cache_info()
    assert len(ids) == limit
    assert family.renderings == 1
    assert after.hits + after.misses - before.hits - before.misses == segments
