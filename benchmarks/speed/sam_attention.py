"""SAM-B at its real size (1024 px, 4096 tokens, 4 of 12 layers global), compared with transformers.

    OMP_NUM_THREADS=1 python benchmarks/speed/sam_attention.py [ROUNDS]

Float32, random weights. Prints for the whole tower without gradients, and for a layer of each type
with them: CPU seconds in turns (medians of ROUNDS, default 3), the median of the paired ratios, the
memory added at the peak, and the largest difference.
"""

from __future__ import annotations

import copy
import sys
from functools import partial

import torch
from contest import Work, added_mb, compare
from torch import Tensor, nn
from transformers import SamVisionConfig, SamVisionModel

from dsvl_tune.kernels.install import install_kernels


def towers() -> tuple[nn.Module, nn.Module]:
    """transformers' tower with every tensor drawn, and the same with our kernels."""
    torch.manual_seed(0)
    theirs = SamVisionModel(SamVisionConfig()).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(center, parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    ours = copy.deepcopy(theirs)
    install_kernels(ours)
    return theirs, ours


@torch.inference_mode()
def encode(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Encode an image: [1, 3, S, S] float32 to SAM's map of features."""
    return tower(pixels).last_hidden_state


def train(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Forward and backward of a layer; returns the gradient of its input [1, H, W, D] float32."""
    leaf = hidden.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    layer.zero_grad()
    assert leaf.grad is not None
    return leaf.grad


def build(what: str) -> tuple[Work, Work]:
    """The work of each side, for `contest`."""
    pair = towers()
    torch.manual_seed(1)
    if what == "tower, no gradients":
        pixels = torch.randn(1, 3, 1024, 1024)
        return partial(encode, pair[0], pixels), partial(encode, pair[1], pixels)
    number = 2 if what == "global layer, trained" else 0
    hidden = torch.randn(1, 64, 64, 768)
    layers = [tower.vision_encoder.layers[number] for tower in pair]
    return partial(train, layers[0], hidden), partial(train, layers[1], hidden)


def main() -> None:
    """Parse the command line, measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{torch.get_num_threads()} threads, {rounds} rounds")
    print(f"{'':24} theirs s   ours s   ratio   theirs MB   ours MB   difference")
    for what in ("tower, no gradients", "global layer, trained", "windowed layer, trained"):
        theirs, ours = build(what)
        expected, found = theirs(), ours()
        away = float((found - expected).abs().max() / expected.abs().max())
        seconds = compare(theirs, ours, rounds)
        memory = added_mb(build, what)
        times = f"{seconds[0]:8.2f} {seconds[1]:8.2f} {seconds[2]:6.2f}x"
        added = f"{memory[0]:11.0f} {memory[1]:9.0f}"
        print(f"{what:24} {times} {added}   {away:.1e}", flush=True)


if __name__ == "__main__":
    main()
