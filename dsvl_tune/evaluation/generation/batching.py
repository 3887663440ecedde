"""Which questions are answered together: those about one image, and those of a similar length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def image_groups(images: Sequence[Hashable]) -> list[list[int]]:
    """Numbers of the questions about the same images, in the order of their first questions.

    Args:
        images: of each question, e.g. their names.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for number, shown in enumerate(images):
        groups[shown].append(number)
    return list(groups.values())


def batches_by_length(
    groups: Sequence[Sequence[int]], lengths: Sequence[int], batch_size: int
) -> list[list[int]]:
    """Batches of questions of similar lengths, the longest first.

    Questions of a group stay in one batch, unless they are more than a batch holds. With the
    longest first, memory is known to suffice after the first batch, and an estimate of the time
    left is not too short.

    Args:
        groups: numbers of questions, see `image_groups`.
        lengths: tokens of each question.
        batch_size: questions of a batch at most.
    """
    parts = []
    for group in groups:
        ordered = sorted(group, key=lambda number: -lengths[number])
        parts += [ordered[start : start + batch_size] for start in range(0, len(group), batch_size)]
    parts.sort(key=lambda part: -lengths[part[0]])
    batches: list[list[int]] = []
    for part in parts:
        if batches and len(batches[-1]) + len(part) <= batch_size:
            batches[-1] += part
        else:
            batches.append(list(part))
    return batches
