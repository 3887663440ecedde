"""A LoRA step of the published sizes on one GPU: tokens, share of the card's rate, memory, time.

    python benchmarks/gpu.py              # 1.3B, then 7B, whatever fits
    python benchmarks/gpu.py --sizes 7B --steps 20
    python benchmarks/gpu.py --try        # a small model on the CPU, to try the script

Weights are random, of full size, in bfloat16; adapters r 16 on the language model's seven linear
layers. A row has 1,024 tokens, 576 of them of an image: alone, or as a tree of four questions about
that image, whose tokens are then counted as in four rows. Each line is a median over the steps
after two of warm-up:

- tokens/s: of rows as they would be alone, without the padding there is none of;
- of matmul: FLOPs of the step as torch counts them, by time and by the rate of one large bfloat16
  product on this card;
- towers, forward, backward, optimizer: their shares of the time; forward includes the towers;
- memory: the allocator's peak, beside what `estimate-memory` says.

`transformers + peft` is a plain loop over the same row, with transformers' own loss. What loading
data takes is measured by `speed/loader.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForImageTextToText

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.text_table import format_table
from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.families import open_sizes
from dsvl_tune.models.build import Adaptation, adapted_model
from dsvl_tune.models.runtime.attention_mask import use_attention
from dsvl_tune.models.runtime.compile import compile_layers
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.memory.estimate import estimate
from dsvl_tune.training.memory.fake_step import RowShape
from dsvl_tune.training.objectives.supervised import supervised_loss

sys.path.append(str(Path(__file__).parents[1] / "tests" / "recipes"))
from test_recipes import published_config

TYPES = {"1.3B": "deepseek_vl", "7B": "deepseek_vl_hybrid"}
TOKENS, QUESTIONS, SUPERVISED = 1024, 4, 16
TEXT_BEFORE = 24
"""Tokens of text in front of a question that all questions share."""
WARMUP = 2
TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
ADAPTATION = Adaptation(
    preset="none",
    parts={"language_model": PartPlan(mode="lora", rank=16, alpha=32)},
    dtype=torch.bfloat16,
)


class Figures(NamedTuple):
    """Of one line of the table; seconds are medians.

    Attributes:
        tokens: of the step's rows as they would be alone.
        step_s: the whole step.
        parts_s: of towers, forward, backward and optimizer; () where they are not known.
        flops: of the step; 0 where they are not counted.
        memory_bytes: peak.
        estimate_bytes: what `estimate-memory` says; 0 where it says nothing.
    """

    tokens: int
    step_s: float
    parts_s: tuple[float, ...]
    flops: int
    memory_bytes: int
    estimate_bytes: float = 0.0


def config_of(size: str, small: bool) -> Any:
    """The published configuration of a size; of the same kind and small, to try the script."""
    config = published_config(TYPES[size])
    if small:
        config.text_config.update({"hidden_size": 256, "intermediate_size": 512})
        config.text_config.update({"num_hidden_layers": 2, "num_attention_heads": 2})
        config.text_config.update({"num_key_value_heads": 2, "head_dim": 128, "vocab_size": 512})
        config.vision_config.num_hidden_layers = 1
        if hasattr(config, "high_res_vision_config"):
            config.high_res_vision_config.num_hidden_layers = 2
            config.high_res_vision_config.global_attn_indexes = [1]
    config.image_token_id = 100
    return config


def materialize(model: nn.Module, device: torch.device) -> None:
    """Draw every weight that is on the meta device, on the GPU; move what has values."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            drawn = parameter.data.to(device) if not parameter.is_meta else None
            if drawn is None:
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                drawn.normal_(0, 0.02)
            setattr(module, name, nn.Parameter(drawn, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def batch_of(config: Any, device: torch.device, questions: int) -> Batch:
    """One row about one image: a conversation, or a tree of several questions.

    Args:
        config: of the model.
        device: where the batch is.
        questions: 1 for a conversation.
    """
    draw = torch.Generator().manual_seed(1)
    vision = config.vision_config
    visual = (vision.image_size // vision.patch_size) ** 2
    ids = torch.randint(200, 500, (1, TOKENS), generator=draw)
    ids[:, :visual] = config.image_token_id
    shared = visual + TEXT_BEFORE
    places = torch.arange(TOKENS)
    each = (TOKENS - shared) // questions
    branch = torch.where(places < shared, 0, (places - shared) // each + 1).clamp(max=questions)
    positions = torch.where(places < shared, places, shared + places - shared - (branch - 1) * each)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for question in range(1, questions + 1):
        own = (branch == question).nonzero().flatten()[-SUPERVISED:]
        labels[:, own] = ids[:, own]
    sizes = {"pixel_values": vision.image_size}
    if hasattr(config, "high_res_vision_config"):
        sizes["high_res_pixel_values"] = config.high_res_vision_config.image_size
    pixels = {name: torch.randn(1, 3, size, size, generator=draw) for name, size in sizes.items()}
    return Batch(
        input_ids=ids.to(device),
        labels=labels.to(device),
        loss_weights=(labels != IGNORE_INDEX).float().to(device),
        position_ids=positions[None].to(device),
        segment_ids=torch.zeros_like(ids).to(device),
        branch_ids=(branch if questions > 1 else torch.zeros_like(branch))[None].to(device),
        vision_inputs={name: tensor.to(device, torch.bfloat16) for name, tensor in pixels.items()},
        image_index=torch.zeros(1, dtype=torch.int64, device=device),
        sources=[""],
    )


def tokens_alone(batch: Batch, questions: int) -> int:
    """Tokens of a row's conversations if each were a row of its own."""
    shared = int((batch.branch_ids == 0).sum()) if questions > 1 else 0
    return TOKENS + (questions - 1) * shared


class Flops(TorchDispatchMode):
    """Counts by torch's own formulas.

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
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of some work, to the end of its kernels."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    since = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - since


def peak_bytes(device: torch.device) -> int:
    """Peak of the allocator since it was last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def reset_peak(device: torch.device) -> None:
    """Forget the peak, and what is not used any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def matmul_rate(device: torch.device) -> float:
    """FLOPs per second of one large product in bfloat16: the best of ten."""
    width = 8192 if device.type == "cuda" else 1024
    one, two = torch.randn(2, width, width, device=device, dtype=torch.bfloat16).unbind(0)
    return 2 * width**3 / min(seconds(lambda: one @ two, device) for _ in range(10))


class Stepper:
    """One optimizer step of a model on a batch, in pieces that can be timed.

    Args:
        model: in training mode, with its adapters.
        loss_of: the model's mean loss on a batch: float32 scalar.
        device: of the model.
    """

    def __init__(self, model: Any, loss_of: Callable[[], Tensor], device: torch.device) -> None:
        self.loss_of = loss_of
        self.device = device
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.loss = torch.zeros(())

    def forward(self) -> None:
        """Compute the loss as Lightning's bf16-mixed does."""
        with torch.autocast(self.device.type, torch.bfloat16):
            self.loss = self.loss_of()

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


def measure(
    stepper: Stepper, steps: int, tokens: int, towers: Callable[[], object] | None
) -> Figures:
    """Time steps, whole and in pieces.

    Args:
        stepper: of the model.
        steps: number of steps after the warm-up.
        tokens: of a step.
        towers: encodes the images alone; None where pieces are not wanted.
    """
    device = stepper.device
    for _ in range(WARMUP):
        stepper.step()
    reset_peak(device)
    whole = statistics.median(seconds(stepper.step, device) for _ in range(steps))
    memory = peak_bytes(device)
    if towers is None:
        return Figures(tokens, whole, (), 0, memory)
    works = (towers, stepper.forward, stepper.backward, stepper.update)
    rounds = [[seconds(work, device) for work in works] for _ in range(steps)]
    parts = tuple(statistics.median(column) for column in zip(*rounds, strict=True))
    with Flops() as counter:
        stepper.step()
    return Figures(tokens, whole, parts, counter.total, memory)


def ours(config: Any, folder: Path, device: torch.device, steps: int) -> dict[str, Figures]:
    """Our step of each kind, by the name of its line."""
    config.save_pretrained(folder)
    checkpoint = open_sizes(folder)
    model, _ = adapted_model(checkpoint, ADAPTATION, "empty")
    materialize(model, device)
    model.train()
    kinds = {"one conversation": (1, "sdpa"), "tree of four, dense mask": (QUESTIONS, "sdpa")}
    if device.type == "cuda":
        kinds["tree of four, FlexAttention"] = (QUESTIONS, "flex")
        kinds["one conversation, compiled"] = (1, "sdpa")
    found = {}
    for name, (questions, attention) in kinds.items():
        use_attention(model, attention)  # type: ignore[arg-type]
        if name.endswith("compiled"):
            compile_layers(model)
        batch = batch_of(config, device, questions)

        def loss_of(batch: Batch = batch) -> Tensor:
            sums = supervised_loss(model, batch)
            return sums.loss / sums.weight

        def towers(batch: Batch = batch) -> None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                encode_images(model, batch)

        stepper = Stepper(model, loss_of, device)
        figures = measure(stepper, steps, tokens_alone(batch, questions), towers)
        found[name] = figures._replace(estimate_bytes=estimated(folder, questions))
    return found


def estimated(folder: Path, questions: int) -> float:
    """What `estimate-memory` says of the same step, in bytes."""
    model, _ = adapted_model(open_sizes(folder), ADAPTATION, "shapes")
    shape = RowShape(rows=1, tokens=TOKENS, images=1, supervised=SUPERVISED * questions)
    found = estimate(model, shape, precision="bf16-mixed", accumulates=False)
    return found.total(gpus=1, checkpointing=False)


def theirs(config: Any, device: torch.device, steps: int) -> dict[str, Figures]:
    """A plain loop of transformers and peft over one conversation."""
    from peft import LoraConfig

    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS))
    model.train()
    batch = batch_of(config, device, questions=1)

    def loss_of() -> Tensor:
        loss: Tensor = model(
            input_ids=batch.input_ids,
            attention_mask=torch.ones_like(batch.input_ids),
            labels=batch.labels,
            use_cache=False,
            **batch.vision_inputs,
        ).loss
        return loss

    return {"transformers + peft": measure(Stepper(model, loss_of, device), steps, TOKENS, None)}


def line(size: str, name: str, figures: Figures, rate: float) -> list[str]:
    """A line of the table."""
    share = figures.flops / figures.step_s / rate
    parts = [f"{1000 * part:.0f}" for part in figures.parts_s] or ["-"] * 4
    estimate_gb = f"{figures.estimate_bytes / 1e9:.1f}" if figures.estimate_bytes else "-"
    return [
        size,
        name,
        f"{figures.tokens / figures.step_s:,.0f}",
        f"{share:.0%}" if figures.flops else "-",
        f"{1000 * figures.step_s:.0f}",
        *parts,
        f"{figures.memory_bytes / 1e9:.1f}",
        estimate_gb,
    ]


HEADER = [
    *("size", "step", "tokens/s", "of matmul", "step ms", "towers ms", "forward ms"),
    *("backward ms", "optimizer ms", "peak GB", "estimate GB"),
]


def main() -> None:
    """Measure what fits, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--steps", type=int, default=10, help="steps of each line")
    parser.add_argument("--try", action="store_true", dest="small", help="small, on the CPU")
    options = parser.parse_args()
    if not options.small and not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()):
        print("benchmarks/gpu.py: no CUDA device with bfloat16 here; nothing was measured.")
        return
    device = torch.device("cpu" if options.small else "cuda")
    name = "this CPU" if options.small else torch.cuda.get_device_name()
    rate = matmul_rate(device)
    print(f"{name}, torch {torch.__version__}: {rate / 1e12:,.1f} TFLOP/s in a bfloat16 product")
    lines, record = [], []
    for size in options.sizes:
        for contender in (ours, theirs):
            config = config_of(size, options.small)
            reset_peak(device)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    given = (Path(folder),) if contender is ours else ()
                    found = contender(config, *given, device, options.steps)  # type: ignore[operator]
            except torch.OutOfMemoryError:
                print(f"{size}, {contender.__name__}: does not fit on this card")
                continue
            lines += [line(size, name, figures, rate) for name, figures in found.items()]
            record += [{"size": size, "step": n, **f._asdict()} for n, f in found.items()]
    print(format_table(HEADER, lines))
    print("BENCH_JSON " + json.dumps(record))


if __name__ == "__main__":
    main()
