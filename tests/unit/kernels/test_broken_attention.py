"""Attention in bfloat16 where torch's code is compiled for less than the processor has."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SCRIPT = """
import json, sys
import torch
from torch.nn import functional as F

from dsvl_tune.kernels.install import avoid_broken_attention

avoid_broken_attention()
torch.manual_seed(1)
inputs = [torch.randn(2, 3, 130, 64) for _ in range(3)]
given = [x.bfloat16().requires_grad_() for x in inputs]
exact = [x.detach().double().requires_grad_() for x in given]
mask = torch.ones(130, 130, dtype=torch.bool).tril()
mask[:, 100:] = False
mask[:, 0] = True
errors = {}
kinds = {"whole": {}, "causal": {"is_causal": True}, "mask": {"attn_mask": mask}}
for name, options in kinds.items():
    out = F.scaled_dot_product_attention(*given, **options)
    true = F.scaled_dot_product_attention(*exact, **options)
    errors[name] = float((out - true).detach().abs().max())
    gradients = torch.autograd.grad(out.float().square().sum(), given)
    truth = torch.autograd.grad(true.square().sum(), exact)
    pairs = zip(gradients, truth, strict=True)
    errors[name + " gradient"] = max(float((a - b).norm() / b.norm()) for a, b in pairs)
json.dump(errors, sys.stdout)
"""


def test_attention_in_bfloat16_is_that_of_float64() -> None:
    """The variable is read when torch is imported, so it needs a process of its own."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    # bfloat16 has 8 bits: outputs are averages of numbers of about 1, with a few roundings each.
    assert len(errors) == 6 and max(errors.values()) < 4 * 2**-8, errors
