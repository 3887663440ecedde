"""How many questions a second servers of one checkpoint answer, all asked at once.

Start the servers first, with the same checkpoint, dtype and number of threads, for instance

    transformers serve merged --device cpu --dtype float32 --port 8001
    python -m vllm.entrypoints.openai.api_server --model merged --served-model-name merged \
        --dtype float32 --port 8002        # with the plugin, docs/serve.md

    python benchmarks/speed/serving.py http://localhost:8001 http://localhost:8002 \
        --image examples/chart.png --processes 4711 4712

Each round asks every server in turn; a pixel and a question of its own for each request keep
caches from answering. Prints requests a second of each round, and medians with least and most, also
of the ratio to the first server in the same round; with the ids of the servers' processes the CPU
seconds that they took, too (children included), which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from openai import OpenAI
from PIL import Image


class Request(NamedTuple):
    """A question about an image.

    Attributes:
        image: data URL.
        question: the text after it.
    """

    image: str
    question: str


def requests_of(image: Path, round_number: int, count: int) -> list[Request]:
    """Requests that have neither image nor question in common, with each other or another round."""
    requests = []
    for number in range(count):
        opened = Image.open(image).convert("RGB")
        opened.putpixel((number, round_number), (0, 0, 0))
        png = BytesIO()
        opened.save(png, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        requests.append(Request(url, f"What is the value of bar {round_number}.{number}?"))
    return requests


def answer(client: OpenAI, settings: Mapping[str, Any], request: Request) -> int:
    """Number of tokens of one answer, greedy.

    Args:
        client: of the server.
        settings: model and length.
        request: to answer.
    """
    parts = [
        {"type": "image_url", "image_url": {"url": request.image}},
        {"type": "text", "text": request.question},
    ]
    messages = [{"role": "user", "content": parts}]
    reply = client.chat.completions.create(messages=messages, temperature=0, **settings)
    return int(reply.usage.completion_tokens)


def timed(
    client: OpenAI, settings: Mapping[str, Any], requests: list[Request], at_once: int
) -> tuple[float, float]:
    """Requests a second of one round with so many in flight, and the mean tokens of an answer."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as clients:
        tokens = list(clients.map(partial(answer, client, settings), requests))
    return len(requests) / (time.perf_counter() - begin), statistics.mean(tokens)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a server so far, with its child processes."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def spread(values: list[float], digits: int = 1) -> str:
    """Median, least and most."""
    numbers = (statistics.median(values), min(values), max(values))
    middle, least, most = (f"{number:.{digits}f}" for number in numbers)
    return f"{middle} ({least} to {most})"


def main() -> None:
    """Ask every server in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("servers", nargs="+", help="address of a server")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--model", default="merged", help="name that the servers know it by")
    parser.add_argument("--requests", type=int, default=64, help="a round")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="ids, as the servers")
    parser.add_argument(
        "--end-token", type=int, help="id to keep out, so that answers are --tokens"
    )
    given = parser.parse_args()
    settings: dict[str, Any] = {"model": given.model, "max_tokens": given.tokens}
    if given.end_token is not None:
        settings["logit_bias"] = {str(given.end_token): -100.0}
    clients = {
        url: OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) for url in given.servers
    }
    processes = dict(zip(given.servers, map(psutil.Process, given.processes), strict=False))
    rates: dict[str, list[float]] = {url: [] for url in clients}
    costs: dict[str, list[float]] = {url: [] for url in processes}
    for number in range(given.rounds + 1):  # the first one warms up
        requests = requests_of(given.image, number, given.requests)
        for url, client in clients.items():
            before = cpu_seconds(processes[url]) if url in processes else 0.0
            rate, length = timed(client, settings, requests, given.at_once)
            if not number:
                continue
            rates[url].append(rate)
            print(f"round {number}  {url}  {rate:.2f} requests/s, {length:.1f} tokens", flush=True)
            if url in processes:
                costs[url].append((cpu_seconds(processes[url]) - before) / given.requests)
    first = given.servers[0]
    for url, measured in rates.items():
        ratios = [rate / base for rate, base in zip(measured, rates[first], strict=True)]
        print(f"{url}: {spread(measured)} requests/s, {spread(ratios)} x the first server")
        if url in costs:
            print(f"{url}: {spread(costs[url], 3)} CPU seconds a request")


if __name__ == "__main__":
    main()
