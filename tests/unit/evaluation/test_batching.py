"""Questions about one image are answered together, with others of a similar length."""

from __future__ import annotations

from dsvl_tune.evaluation.generation.batching import batches_by_length, image_groups


def test_questions_about_one_image_stay_together() -> None:
    groups = image_groups(["a", "b", "a", "c", "b", "a"])
    assert groups == [[0, 2, 5], [1, 4], [3]]
    lengths = [5, 90, 7, 40, 80, 6]
    assert batches_by_length(groups, lengths, 3) == [[1, 4, 3], [2, 5, 0]]
    assert batches_by_length(groups, lengths, 4) == [[1, 4, 3], [2, 5, 0]]
    assert batches_by_length(groups, lengths, 2) == [[1, 4], [3], [2, 5], [0]]


def test_every_question_is_in_one_batch() -> None:
    images = [number * 7 % 11 for number in range(200)]
    lengths = [number * 13 % 29 for number in range(200)]
    batches = batches_by_length(image_groups(images), lengths, 16)
    assert sorted(number for batch in batches for number in batch) == list(range(200))
    assert max(map(len, batches)) <= 16
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)
