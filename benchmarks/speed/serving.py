"""How many questions a second servers of one checkpoint answer, all asked at once.

Start the servers first, with the same checkpoint, dtype and number of threads, for instance

    transformers serve merged --device cpu --dtype float32 --port 8001
    python -m vllm.entrypoints.openai.api_server --model merged --served-model-name merged \
        --dtype float32 --port 8002        # with the plugin, docs/serve.md

    python benchmarks/speed/serving.py http://localhost:8001 http://localhost:8002 \
        --image examples/chart.png

Each round asks every server in turn; an own question for each request keeps prefix caches from
answering. Prints requests a second of each round, and the medians as a ratio to the first server's.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from openai import OpenAI


def answer(client: OpenAI, model: str, image: str, tokens: int, question: str) -> str:
    """One answer, greedy.

    Args:
        client: of the server.
        model: name that it is served by.
        image: data URL.
        tokens: length of the longest answer.
        question: asked about the image.
    """
    parts = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": question},
    ]
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": parts}],
        max_tokens=tokens,
        temperature=0,
    )
    return reply.choices[0].message.content or ""


def requests_per_second(
    client: OpenAI, questions: list[str], *, model: str, image: str, tokens: int, at_once: int
) -> float:
    """Of one round, with so many requests in flight."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as clients:
        list(clients.map(partial(answer, client, model, image, tokens), questions))
    return len(questions) / (time.perf_counter() - begin)


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
    given = parser.parse_args()
    data = base64.b64encode(given.image.read_bytes()).decode()
    image = f"data:image/{given.image.suffix[1:]};base64,{data}"
    clients = {
        url: OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) for url in given.servers
    }
    rates: dict[str, list[float]] = {url: [] for url in clients}
    for number in range(given.rounds + 1):  # the first one warms up
        questions = [f"What is the value of bar {number}.{one}?" for one in range(given.requests)]
        for url, client in clients.items():
            rate = requests_per_second(
                client,
                questions,
                model=given.model,
                image=image,
                tokens=given.tokens,
                at_once=given.at_once,
            )
            if number:
                rates[url].append(rate)
                print(f"round {number}  {url}  {rate:.1f} requests/s", flush=True)
    first = statistics.median(rates[given.servers[0]])
    for url, measured in rates.items():
        rate = statistics.median(measured)
        print(f"{url}: median {rate:.1f} requests/s, {rate / first:.1f} x the first server")


if __name__ == "__main__":
    main()
