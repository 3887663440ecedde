"""Progress bars end before the message of an error begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from tqdm import tqdm

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.validation.inspect import check_rows
from dsvl_tune.data.validation.row_stats import inspect_outline


def test_an_error_leaves_no_progress_bar_open(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n{}\n' * 5)
    rows = ConversationRows(open_conversations(str(tmp_path / "rows.jsonl")))
    with pytest.raises(UserError, match="rows.jsonl:2: keys none") as error:
        check_rows(rows, inspect_outline, "checking")
    assert error.value.__traceback__ is not None  # which keeps the frames alive
    assert not list(tqdm._instances)  # type: ignore[attr-defined]
