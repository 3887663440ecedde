"""Head and cross entropy, forward and backward: in chunks, plainly, and by torch's fused function.

    python benchmarks/speed/head_loss.py [N [WIDTH [VOCABULARY [ROUNDS]]]]

Every measurement has a process of its own; the contenders take turns. Prints the median CPU
seconds, their ratio to the plain version, and the peak memory above weights and inputs. "fused" is
`F.linear_cross_entropy`, which has no weight per token with reduction "sum" and computes the logits
twice with "none"; both get our chunk size. With a trained head the peak includes the head's
gradient.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from multiprocessing import get_context

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsvl_tune.training.objectives.chunked_cross_entropy import CHUNK_TOKENS, head_loss


def plain(head: nn.Linear, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute all logits at once; the shapes are those of `head_loss`."""
    return torch.dot(F.cross_entropy(head(hidden).float(), targets, reduction="none"), weights)


def chunked(head: nn.Linear, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Call dsvl-tune's head and loss; the shapes are those of `head_loss`."""
    return head_loss(head, hidden, targets, weights)[0]


def fused_sum(head: nn.Linear, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Call torch's fused function, summed; the shapes are those of `head_loss`."""
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=min(CHUNK_TOKENS, len(hidden)))
    return F.linear_cross_entropy(hidden, head.weight, targets, reduction="sum", options=options)


def fused_none(head: nn.Linear, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Call torch's fused function, weighted per token; the shapes are those of `head_loss`."""
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=min(CHUNK_TOKENS, len(hidden)))
    losses = F.linear_cross_entropy(hidden, head.weight, targets, reduction="none", options=options)
    return torch.dot(losses, weights)


def measure(
    name: str, trained: bool, tokens: int, width: int, vocabulary: int
) -> tuple[float, float]:
    """CPU seconds, and peak MB above the start, of one forward and backward."""
    torch.manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=False).requires_grad_(trained)
    hidden = torch.randn(tokens, width, requires_grad=True)
    targets, weights = torch.randint(vocabulary, (tokens,)), torch.rand(tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    globals()[name](head, hidden, targets, weights).backward()
    took = time.process_time() - start
    return took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Parse the command line, measure and print."""
    tokens, width, vocabulary, rounds = [
        *map(int, sys.argv[1:]),
        *(512, 2048, 102400, 3)[len(sys.argv) - 1 :],
    ]
    threads = torch.get_num_threads()
    print(f"{tokens} tokens, width {width}, vocabulary {vocabulary:,}, float32, {threads} threads")
    for trained in (False, True):
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for name in ("plain", "chunked", "fused_sum", "fused_none"):
                with get_context("spawn").Pool(1) as pool:
                    one = pool.apply(measure, (name, trained, tokens, width, vocabulary))
                found.setdefault(name, []).append(one)
        print("head trained" if trained else "head frozen")
        for name, measured in found.items():
            seconds, peak = (statistics.median(column) for column in zip(*measured, strict=True))
            ratio = statistics.median(
                a / b for (a, _), (b, _) in zip(measured, found["plain"], strict=True)
            )
            print(
                f"  {name:10} {seconds:6.2f} CPU s  {ratio:5.2f} x plain  {peak:6.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
