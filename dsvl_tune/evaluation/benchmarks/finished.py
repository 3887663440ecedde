"""Answers of a benchmark that an earlier command finished, so that they are not given again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsvl_tune.core.storage.files import sha256
from dsvl_tune.evaluation.answer_log import AnswerLog
from dsvl_tune.evaluation.answers import Answer


def answers_record(logs: Sequence[AnswerLog]) -> dict[str, dict[str, str]]:
    """What a report says of its files of answers: what they depend on, and their hashes.

    Args:
        logs: of the answers, whose files are written.
    """
    return {log.out.name: {"identity": log.identity, "sha256": sha256(log.out)} for log in logs}


def finished_answers(report: Path, log: AnswerLog) -> list[Answer]:
    """The answers of a finished command that asked the same in the same way; [] without one.

    Args:
        report: NAME.json, which may be there.
        log: of the answers that are needed.
    """
    try:
        kept = json.loads(report.read_bytes())["answers"][log.out.name]
        if kept != answers_record([log])[log.out.name]:
            return []
        lines = log.out.read_text(encoding="utf-8").splitlines()
        return [_answer(json.loads(line), number) for number, line in enumerate(lines)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _answer(line: dict[str, Any], number: int) -> Answer:
    """The answer of a line, in the order of the rows."""
    kept = {key: line[key] for key in ("likelihoods",) if key in line}
    return Answer(
        source=line["source"],
        question_type=line["question_type"],
        question=line["question"],
        references=(),
        text=line["answer"],
        images=tuple(line["images"]),
        prompt=line["prompt"],
        complete=line["complete"],
        tokens=line["tokens"],
        seconds=line.get("seconds"),
        number=number,
        fields=kept,
    )
