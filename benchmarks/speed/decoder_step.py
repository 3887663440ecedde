"""A LoRA step of the decoder, compared with transformers and peft and with its arithmetic alone.

    OMP_NUM_THREADS=1 python benchmarks/speed/decoder_step.py [ROUNDS]

A Llama decoder of realistic proportions (width 1024, intermediate 2816, heads of 128, 4 layers)
with random weights, float32; 4 sequences of 648 tokens, which is one image of 576 and a short
conversation; adapters of rank 16 on all seven linear layers. Head and loss are left out. The lower
bound is the arithmetic of linear layers and attention, forward and gradients of activations,
without the adapters, at the rate of `torch.mm`. Prints the rates, the lower bound, and for each
side CPU seconds (medians of ROUNDS, default 3), their relation to the bound, the median of paired
ratios, the memory added, and the largest difference of any gradient.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from contest import Work, added_mb, compare, cpu_seconds
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.kernels.onednn_linear import linear

WIDTH, INNER, HEADS, LAYERS, ROWS, TOKENS = 1024, 2816, 8, 4, 4, 648
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def decoder() -> nn.Module:
    """A frozen decoder with peft's adapters, every tensor drawn from one seed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        vocab_size=64,
        max_position_embeddings=2048,
    )
    model = LlamaModel(config).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS), model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02)
    return model.train()


def step(model: nn.Module, hidden: Tensor, weights: Tensor) -> None:
    """Forward and backward; gradients stay on the adapters.

    Args:
        model: the decoder.
        hidden: [B, T, D] float32, the embedded tokens.
        weights: [B, T, D] float32, what the outputs are weighted with.
    """
    model.zero_grad()
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril().expand(ROWS, 1, TOKENS, TOKENS)
    positions = torch.arange(TOKENS).expand(ROWS, TOKENS)
    output = model(
        inputs_embeds=hidden, attention_mask=mask, position_ids=positions, use_cache=False
    )
    (output.last_hidden_state * weights).sum().backward()


def models() -> tuple[nn.Module, nn.Module]:
    """Return the decoder as transformers and peft have it, and with our kernels."""
    theirs, ours = decoder(), decoder()
    install_kernels(ours)
    return theirs, ours


def build() -> tuple[Work, Work]:
    """A step of each side, for `contest`."""
    theirs, ours = models()
    hidden, weights = torch.randn(2, ROWS, TOKENS, WIDTH).unbind(0)
    return partial(step, theirs, hidden, weights), partial(step, ours, hidden, weights)


def largest_difference(theirs: nn.Module, ours: nn.Module) -> float:
    """Largest difference of any gradient, relative to that tensor's largest value."""
    pairs = zip(theirs.parameters(), ours.parameters(), strict=True)
    return max(
        float((a.grad - b.grad).abs().max() / a.grad.abs().max())
        for a, b in pairs
        if a.grad is not None
    )


def rates() -> tuple[float, float]:
    """GFLOP per CPU second of `torch.mm` and of our linear layer, at the MLP's size; best of 5."""
    x, weight = torch.randn(ROWS * TOKENS, WIDTH), torch.randn(INNER, WIDTH)
    gflop = 2 * x.numel() * INNER / 1e9
    ways = (lambda: torch.mm(x, weight.t()), lambda: linear(x, weight))
    plain, fast = (gflop / min(cpu_seconds(way) for _ in range(5)) for way in ways)
    return plain, fast


def step_gflop() -> float:
    """GFLOP of a step.

    Linear layers forward and for the gradient of their inputs; attention's two matmuls forward and
    five backward, over the whole square.
    """
    linear = 2 * 2 * ROWS * TOKENS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    attention = (2 + 5) * 2 * ROWS * TOKENS**2 * WIDTH
    return LAYERS * (linear + attention) / 1e9


def main() -> None:
    """Parse the command line, measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    plain, fast = rates()
    bound = step_gflop() / plain
    threads = torch.get_num_threads()
    print(f"{threads} threads; GFLOP per CPU second: torch.mm {plain:.0f}, ours {fast:.0f}")
    at_our_rate = step_gflop() / fast
    print(f"a step: {step_gflop():.0f} GFLOP, bound {bound:.2f} s, at our rate {at_our_rate:.2f} s")
    theirs, ours = models()
    hidden, weights = torch.randn(2, ROWS, TOKENS, WIDTH).unbind(0)
    works = partial(step, theirs, hidden, weights), partial(step, ours, hidden, weights)
    for work in works:
        work()
    away = largest_difference(theirs, ours)
    seconds = compare(*works, rounds)
    memory = added_mb(build)
    for name, spent, added in zip(("transformers and peft", "ours"), seconds, memory, strict=False):
        share = bound / spent
        print(f"{name:22} {spent:6.2f} s   {share:5.0%} of the bound   {added:6.0f} MB added")
    print(f"ratio {seconds[2]:.2f}x, largest difference of a gradient {away:.1e}")


if __name__ == "__main__":
    main()
