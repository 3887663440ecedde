"""A vLLM server of an export with its adapters, and clients that ask all at once."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from openai import OpenAI
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.types import Conversation, ImageRef
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.export.verify import inputs_of

START_SECONDS = 600
OPTIONS = {
    "--dtype": "float32",
    "--max-num-seqs": "8",
    "--limit-mm-per-prompt": json.dumps({"image": 2}),
}


@contextmanager
def serving(
    python: Path,
    folder: Path,
    adapters: Mapping[str, Path],
    log: Path,
    *options: str,
    paths: Sequence[Path] = (),
) -> Iterator[OpenAI]:
    """A client of a server of its own, on a free port.

    Args:
        python: interpreter of the environment with vLLM.
        folder: the export, served as "merged".
        adapters: folders of LoRA adapters by the name that they are served by.
        log: file that gets what the server prints.
        options: further ones of the server.
        paths: folders that Python finds further packages in.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The package of the CPU build has another name, which `vllm serve` does not find.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)]
    command += ["--model", str(folder), "--served-model-name", "merged", *options]
    command += [part for option in OPTIONS.items() for part in option]
    if adapters:
        # The CPU build applies the adapter in the last place to requests of the model itself that
        # are in the same batch: that place has to stay empty.
        command += ["--enable-lora", "--max-loras", str(len(adapters) + 1), "--lora-modules"]
        command += [f"{name}={path}" for name, path in adapters.items()]
    environ = {
        "PATH": os.environ["PATH"],
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HOME": str(log.parent),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environ, stdout=output, stderr=output) as process,
    ):
        try:
            _wait(f"http://localhost:{port}/health", process, log)
            yield OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=0)
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not come up: {log.read_text(encoding='utf-8')}")


def expected(
    model: PreTrainedModel, checkpoint: Checkpoint, question: Conversation, tokens: int
) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of our greedy answer, asked alone.

    Args:
        model: in eval mode.
        checkpoint: that the server has.
        question: to answer.
        tokens: length of the longest answer.
    """
    processor = checkpoint.processor
    prompts = normalize_images(
        collate_prompts([encode_prompt(question, processor)], processor.pad_id), processor
    )
    inputs = inputs_of(model, prompts)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0]
    length = inputs["input_ids"].shape[1]
    return ids[:length].tolist(), ids[length:].tolist()


def found(answer: Any) -> tuple[list[int], list[int]]:
    """The same of what the server sent."""
    return list(answer.prompt_token_ids), list(answer.choices[0].token_ids)


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as OpenAI's clients send it, with images as data URLs."""
    system = [] if conversation.system is None else [("system", (conversation.system,))]
    turns = [*system, *((turn.role, turn.parts) for turn in conversation.turns)]
    return [{"role": role, "content": [_part(part) for part in parts]} for role, parts in turns]


def _part(part: str | ImageRef) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    path = part.content
    assert isinstance(path, Path)
    data = base64.b64encode(path.read_bytes()).decode()
    url = f"data:image/{path.suffix[1:]};base64,{data}"
    return {"type": "image_url", "image_url": {"url": url}}


def ask(client: OpenAI, model: str, conversation: Conversation, tokens: int, **more: Any) -> Any:
    """What a server answers greedily, with the ids of prompt and answer."""
    return client.chat.completions.create(
        model=model,
        messages=messages_of(conversation),
        max_tokens=tokens,
        temperature=0,
        extra_body={"return_token_ids": True},
        **more,
    )


def ask_all(
    client: OpenAI, questions: Sequence[tuple[str, Conversation]], tokens: int
) -> list[Any]:
    """Answers to questions that are all asked at once, each of a model by its name."""
    with ThreadPoolExecutor(len(questions)) as clients:
        return list(clients.map(lambda one: ask(client, *one, tokens), questions))
