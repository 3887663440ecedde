"""Part of `gpu.py`: a LoRA step of dsvl-tune, whole and in pieces."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_step import (
    QUESTIONS,
    SUPERVISED,
    TOKENS,
    WARMUP,
    Figures,
    batch_of,
    config_of,
    materialize,
    peak_bytes,
    reset_peak,
    seconds,
    tokens_alone,
)
from step_bench import ALPHA, RANK
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.families import open_sizes
from dsvl_tune.models.build import Adaptation, adapted_model
from dsvl_tune.models.runtime.attention_mask import Attention, use_attention
from dsvl_tune.models.runtime.compile import compile_layers
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.memory import fake_step
from dsvl_tune.training.memory.estimate import estimate
from dsvl_tune.training.memory.fake_step import RowShape
from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss
from dsvl_tune.training.objectives.supervised import supervised_loss

aten = torch.ops.aten
PRECISION = "bf16-mixed"
ADAPTATION = Adaptation(
    preset="none",
    parts={"language_model": PartPlan(mode="lora", rank=RANK, alpha=ALPHA)},
    dtype=torch.bfloat16,
)
KINDS: dict[str, tuple[int, Attention]] = {
    "one conversation": (1, "sdpa"),
    "tree of four, dense mask": (QUESTIONS, "sdpa"),
    "tree of four, FlexAttention": (QUESTIONS, "flex"),
    "one conversation, compiled": (1, "sdpa"),
}
"""Name of a line -> questions of the row, and the kernel of attention."""
ON_GPU = ("tree of four, FlexAttention", "one conversation, compiled")


class Stepper:
    """One optimizer step of a model on a batch, in pieces that can be timed.

    Args:
        model: in training mode, with its adapters.
        batch: on its device.
    """

    def __init__(self, model: Any, batch: Batch) -> None:
        self.model = model
        self.batch = batch
        self.device = batch.input_ids.device
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.loss = torch.zeros(())
        supervised = int((batch.labels != IGNORE_INDEX).sum())
        width = model.config.text_config.hidden_size
        self.hidden = torch.randn(
            supervised, width, device=self.device, dtype=torch.bfloat16, requires_grad=True
        )
        self.weights = torch.ones(supervised, device=self.device)

    def autocast(self) -> torch.autocast:
        """As Lightning's bf16-mixed does."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def towers(self) -> None:
        """Encode the images alone."""
        with torch.no_grad(), self.autocast():
            encode_images(self.model, self.batch)

    def head(self) -> None:
        """Head and loss alone, of other hidden states."""
        targets = self.batch.labels[self.batch.labels != IGNORE_INDEX]
        with self.autocast():
            head_loss(self.model.lm_head, self.hidden, targets, self.weights)

    def forward(self) -> None:
        """Compute the loss."""
        with self.autocast():
            sums = supervised_loss(self.model, self.batch)
        self.loss = sums.loss / sums.weight

    def backward(self) -> None:
        """Compute all gradients."""
        self.loss.backward()

    def update(self) -> None:
        """Change the adapters."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """All of it."""
        self.forward()
        self.backward()
        self.update()


def measure(stepper: Stepper, steps: int, tokens: int) -> Figures:
    """Time steps, whole and in pieces.

    Args:
        stepper: of the model.
        steps: number of steps after the warm-up.
        tokens: of a step.
    """
    device = stepper.device
    for _ in range(WARMUP):
        stepper.step()
    reset_peak(device)
    whole = statistics.median(seconds(stepper.step, device) for _ in range(steps))
    memory = peak_bytes(device)
    works: tuple[Callable[[], None], ...] = (
        *(stepper.towers, stepper.head, stepper.forward, stepper.backward, stepper.update),
    )
    rounds = [[seconds(work, device) for work in works] for _ in range(steps)]
    towers, head, forward, backward, update = map(statistics.median, zip(*rounds, strict=True))
    decoder = forward - towers - head + backward
    return Figures(tokens, whole, memory, towers, decoder, head, update)


FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
"""torch's own, which leave out the CPU's fused attention, that of a step without a device."""


class Flops(TorchDispatchMode):
    """Counts by torch's formulas.

    torch's `FlopCounterMode` also tracks modules, by hooks that do not allow a backward pass within
    the forward pass, which the chunked head has.

    Attributes:
        total: floating point operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def flops_and_bytes(folder: Path, questions: int) -> tuple[int, int, float]:
    """FLOPs of the step that `estimate-memory` runs, those of its decoder, and what it estimates.

    Args:
        folder: with the configuration of the model.
        questions: of the row.
    """
    shape = RowShape(rows=1, tokens=TOKENS, images=1, supervised=SUPERVISED * questions)
    model, _ = adapted_model(open_sizes(folder), ADAPTATION, "shapes")
    with FakeTensorMode(), Flops() as counter, fake_step.autocast(PRECISION):
        fake_step.fill_with_fakes(model)
        features = fake_step.encode(model, fake_step.make_vision_inputs(model, shape))
        towers = counter.total
        hidden = fake_step.decode(model, shape, features)
        decoder = counter.total - towers
        loss = fake_step.supervise(model, shape, hidden)
        before = counter.total
        loss.backward()  # the towers are frozen, and the head's gradients are there already
        decoder += counter.total - before
    model, _ = adapted_model(open_sizes(folder), ADAPTATION, "shapes")
    estimated = estimate(model, shape, precision=PRECISION, accumulates=False)
    return counter.total, decoder, estimated.total(gpus=1, checkpointing=False)


def random_model(size: str, small: bool, folder: Path, device: torch.device) -> Any:
    """A model of random weights with adapters, in training mode; its configuration in a folder."""
    config = config_of(size, small)
    config.save_pretrained(folder)
    model, _ = adapted_model(open_sizes(folder), ADAPTATION, "empty")
    materialize(model, device)
    return model.train()


def run(size: str, small: bool, device: torch.device, steps: int) -> dict[str, Figures]:
    """Our step of each kind, by the name of its line."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(size, small, folder, device)
        for kind, (questions, attention) in KINDS.items():
            if kind in ON_GPU and device.type != "cuda":
                continue
            use_attention(model, attention)
            if kind.endswith("compiled"):
                compile_layers(model)
            batch = batch_of(model.config, device, questions)
            figures = measure(Stepper(model, batch), steps, tokens_alone(batch, questions))
            flops, decoder_flops, estimated = flops_and_bytes(folder, questions)
            found[kind] = figures._replace(
                flops=flops, decoder_flops=decoder_flops, estimate_bytes=estimated
            )
    return found
