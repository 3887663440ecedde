"""transformers' own server with an exported checkpoint: clients get what `dsvl-tune chat` says."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest
import torch
from openai import OpenAI
from safetensors.torch import load_file, save_file

from dsvl_tune.cli.main import main
from dsvl_tune.core.terminal import escape
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.evaluation.generation.generate import answer_prompts
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights

GOLDEN = Path(__file__).parents[1] / "golden"
# Sizes whose short side transformers rounds to what the original truncates to; at others the pixels
# differ.
PHOTO, BADGE = (GOLDEN / "hybrid" / "images" / name for name in ("photo.jpg", "badge_rgba.png"))
TOKENS = 12


class Served(NamedTuple):
    """A running server."""

    folder: Path
    client: OpenAI


def export(family: str, base: Path, target: Path) -> None:
    """The golden checkpoint in transformers' layout, with an end token that comes now and then.

    The golden files scale its row of the head by 0.15, so that it never comes.
    """
    shutil.copytree(GOLDEN / family / "checkpoint", base)
    weights = load_file(base / "model.safetensors")
    weights["language_model.lm_head.weight"][open_checkpoint(base).tokenizer.eos_token_id] /= 0.15
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    target.mkdir()
    merge_into(Weights(open_checkpoint(base)), {}, target, "transformers", torch.float32)


@pytest.fixture(scope="module", params=["hybrid", "siglip"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """`transformers serve` as its own process on a free port."""
    home = tmp_path_factory.mktemp("serve")
    folder = home / "merged"
    export(request.param, home / "base", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [
        program,
        "serve",
        "merged",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--port",
        str(port),
    ]
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(command, cwd=home, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(f"http://localhost:{port}/health", process, home / "log")
            yield Served(
                folder,
                OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=0),
            )
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not come up: {log.read_text(encoding='utf-8')}")


def picture(path: Path) -> dict[str, Any]:
    """A part of a message that shows a picture as a data URL."""
    data = base64.b64encode(path.read_bytes()).decode()
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/{path.suffix[1:]};base64,{data}"},
    }


def ask(served: Served, messages: list[dict[str, Any]], **options: Any) -> Any:
    return served.client.chat.completions.create(
        model="merged", messages=messages, max_tokens=TOKENS, **options
    )


def test_an_image_question_gets_what_chat_says(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(served.folder), "--image", str(PHOTO), "--prompt", "What is this?"]
    monkeypatch.setattr(
        sys, "argv", ["dsvl-tune", "chat", *arguments, "--max_new_tokens", str(TOKENS)]
    )
    main()
    said = capsys.readouterr().out.strip()
    messages = [
        {"role": "user", "content": [picture(PHOTO), {"type": "text", "text": "What is this?"}]}
    ]
    whole = ask(served, messages)
    assert escape(whole.choices[0].message.content.strip()) == said
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(served, messages, stream=True)]
    assert len(pieces) > 3
    assert said.startswith(
        escape("".join(pieces).strip())
    )  # bytes that are no character yet are not sent at the end


def test_turns_system_prompt_and_end_token(served: Served) -> None:
    question = [
        {"type": "text", "text": "Compare "},
        picture(PHOTO),
        {"type": "text", "text": " and "},
        picture(BADGE),
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "They differ."},
        {"role": "user", "content": "How?"},
    ]
    photo, badge = ImageRef(PHOTO, "photo"), ImageRef(BADGE, "badge")
    turns = (
        Turn("user", ("Compare ", photo, " and ", badge)),
        Turn("assistant", ("They differ.",)),
        Turn("user", ("How?",)),
    )
    plain = [{"role": "user", "content": "What is this?"}]
    seen = [
        {"role": "user", "content": [picture(PHOTO), {"type": "text", "text": "What is this?"}]}
    ]
    cases = [
        (messages, Conversation(turns, "turns", system="Be brief.")),
        (plain, Conversation((Turn("user", ("What is this?",)),), "plain")),
        (seen, Conversation((Turn("user", (photo, "What is this?")),), "seen")),
    ]
    processor, model = (
        open_checkpoint(served.folder).processor,
        create_model(open_checkpoint(served.folder)),
    )
    prompts = collate_prompts(
        [encode_prompt(conversation, processor) for _, conversation in cases], processor.pad_id
    )
    prompts = normalize_images(prompts, processor)
    records = answer_prompts(model, processor.tokenizer, prompts, TOKENS)
    for (asked, _), record, mask in zip(cases, records, prompts.attention_mask, strict=True):
        answer = ask(served, asked)
        assert answer.choices[0].message.content.strip() == record.text
        assert answer.choices[0].finish_reason == ("stop" if record.complete else "length")
        assert answer.usage.prompt_tokens == int(mask.sum())
    assert any(record.complete for record in records)
