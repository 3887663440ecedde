"""The faster forwards equal transformers' and peft's: outputs, losses, gradients and names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear as PeftLoraLinear
from reference import assert_as_near, exact_copy
from torch import Tensor, nn
from torch.autograd import gradcheck
from transformers import AutoModelForImageTextToText, PreTrainedModel

from dsvl_tune.core.family import PartPlan
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.parts import PARTS
from dsvl_tune.kernels import onednn_linear
from dsvl_tune.kernels.install import FASTER, install_kernels
from dsvl_tune.kernels.lora_linear import FusedLoraLinear, LoraFunction
from dsvl_tune.kernels.onednn_linear import OneDnnLinear
from dsvl_tune.kernels.swiglu import SwiGLU
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan, lora_config
from dsvl_tune.models.runtime.compile import separate_caches
from dsvl_tune.training.module import FinetuneModule

LORA = {
    part: PartPlan(mode="lora", rank=4)
    for part in ("siglip", "sam", "aligner", "language_model", "lm_head")
}


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a product, whatever this processor would choose."""
    monkeypatch.setattr(onednn_linear, "ONEDNN", request.param)
    monkeypatch.setattr(onednn_linear, "MIN_ROWS", 1)


def gradients(module: nn.Module, run: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The value of `run`, and the gradient of all that trains in the module."""
    module.zero_grad()
    value = run()
    value.backward()
    trained = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"value": value.detach(), **trained}


@pytest.mark.parametrize("adapted", ["language_model", "aligner"])
def test_switched_off_every_layer_is_its_own(checkpoint: Path, adapted: str) -> None:
    plan = {adapted: PartPlan(mode="lora", rank=4)}
    built = [
        FinetuneModule(str(checkpoint), preset="none", parts=plan, kernels=kernels).build(None)[0]
        for kernels in ("auto", "off")
    ]
    fast, own = ({type(module) for module in model.modules()} for model in built)
    assert fast & set(FASTER.values())
    assert not fast & set(FASTER)
    assert not own & set(FASTER.values())
    assert own & set(FASTER)
    names = [dict(model.named_parameters()).keys() for model in built]
    assert names[0] == names[1]


def assert_equal(theirs: dict[str, Tensor], ours: dict[str, Tensor], bound: float = 1e-5) -> None:
    """Each tensor within `bound` of the other's largest value.

    1e-8: the gradient of a key projection's bias is nothing but rounding.
    """
    assert theirs.keys() == ours.keys() and len(theirs) > 1
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() <= bound * expected.abs().max() + 1e-8, name


def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two rows with an image each."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(20, 400, (2, 40), generator=generator)
    ids[:, 2:18] = model.config.image_token_id
    pixels = [torch.randn(2, 3, side, side, generator=generator) for side in (32, 64)]
    return {
        "input_ids": ids,
        "labels": ids,
        "pixel_values": pixels[0],
        "high_res_pixel_values": pixels[1],
    }


@pytest.mark.parametrize("mode", ["lora", "lora, checkpointed", "full"])
def test_a_step_of_the_whole_model(hybrid_checkpoint: Path, mode: str, library: None) -> None:
    """Adapters everywhere, or every tensor trained."""
    theirs = AutoModelForImageTextToText.from_pretrained(
        hybrid_checkpoint, tie_word_embeddings=False
    )
    ours = create_model(open_checkpoint(hybrid_checkpoint))
    if mode == "full":
        apply_plan(ours, {part: PartPlan(mode="full") for part in PARTS})
    else:
        theirs.requires_grad_(False).add_adapter(lora_config(LORA, PARTS, "lora", 0.0, []))
        apply_plan(ours, {part: LORA.get(part, PartPlan()) for part in PARTS})
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if "lora_B" in name:  # which peft starts at zero
                    parameter.normal_(0, 0.3)
    assert not {type(module) for module in ours.modules()} & set(FASTER)
    ours.load_state_dict(theirs.state_dict())  # strict: the names are theirs
    for model in (theirs, ours):
        model.train()
        if mode == "lora, checkpointed":
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
    batch = inputs(theirs)
    expected = gradients(theirs, lambda: theirs(**batch, use_cache=False).loss)
    assert_equal(expected, gradients(ours, lambda: ours(**batch, use_cache=False).loss), 2e-5)


def test_answers_are_the_same(hybrid_checkpoint: Path, library: None) -> None:
    theirs = AutoModelForImageTextToText.from_pretrained(
        hybrid_checkpoint, tie_word_embeddings=False
    ).eval()
    ours = create_model(open_checkpoint(hybrid_checkpoint))
    prompt = {name: tensor for name, tensor in inputs(theirs).items() if name != "labels"}
    answers = [
        model.generate(**prompt, max_new_tokens=6, do_sample=False) for model in (theirs, ours)
    ]
    assert answers[0].tolist() == answers[1].tolist()


def adapted(
    dtype: torch.dtype = torch.float32, bias: bool = False, **settings: object
) -> FusedLoraLinear:
    """A linear layer of 24 to 40 with an adapter on it."""
    torch.manual_seed(4)
    model = nn.ModuleDict({"proj": nn.Linear(24, 40, bias=bias, dtype=dtype)}).requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(r=4, lora_alpha=12, target_modules=["proj"], **settings), model
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    assert type(model["proj"]) is PeftLoraLinear
    install_kernels(model)
    assert isinstance(model["proj"], FusedLoraLinear) and isinstance(
        model["proj"].base_layer, OneDnnLinear
    )
    return model["proj"]


def results(
    layer: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor], x: Tensor
) -> dict[str, Tensor]:
    """Output, and gradients of what trains and of the input."""
    torch.manual_seed(6)  # dropout
    x = x.clone().requires_grad_()
    output = forward(layer, x)
    weights = torch.linspace(-1, 2, output.shape[-1], dtype=output.dtype)
    found = gradients(layer, lambda: (output * weights).sum()) if output.requires_grad else {}
    return {**found, "output": output.detach(), **({} if x.grad is None else {"x": x.grad})}


def assert_is_peft(layer: FusedLoraLinear) -> None:
    """Peft's own forward of the same layer, up to the order of sums."""
    x = torch.randn(2, 9, 24)
    truth = results(exact_copy(layer), PeftLoraLinear.forward, x.double())
    theirs, ours = (
        results(layer, forward, x) for forward in (PeftLoraLinear.forward, FusedLoraLinear.forward)
    )
    assert_as_near(truth, theirs, ours)


def assert_left_to_peft(layer: FusedLoraLinear, dtype: torch.dtype = torch.float32) -> None:
    """The very same computation as peft's own forward."""
    x = torch.randn(2, 9, 24, dtype=dtype)
    theirs, ours = (
        results(layer, forward, x) for forward in (PeftLoraLinear.forward, FusedLoraLinear.forward)
    )
    assert theirs.keys() == ours.keys() and ours["output"].dtype == dtype
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"use_rslora": True}])
def test_a_plain_adapter_is_fused(settings: dict[str, object], library: None) -> None:
    layer = adapted(**settings)
    assert layer.plain_adapter(torch.ones(1, 24)) == "default"
    assert_is_peft(layer)


def test_everything_else_is_left_to_peft(library: None) -> None:
    merged, disabled, two, frozen = adapted(), adapted(), adapted(), adapted()
    merged.merge()
    disabled.enable_adapters(False)
    two.update_layer("second", 2, lora_alpha=2, config=LoraConfig(r=2))
    two.set_adapter(["default", "second"])
    frozen.base_layer.weight.requires_grad_(True)
    others = [adapted(use_dora=True), adapted(lora_dropout=0.5), merged, disabled, two, frozen]
    for layer in others:
        assert layer.plain_adapter(torch.ones(1, 24)) is None
        assert_left_to_peft(layer)
    dropout = others[1].eval()
    assert dropout.plain_adapter(torch.ones(1, 24)) == "default"  # which is off in eval mode
    low = adapted(torch.bfloat16)
    for module in (*low.lora_A.values(), *low.lora_B.values()):
        module.float()  # as what trains is
    assert low.plain_adapter(torch.ones(1, 24, dtype=torch.bfloat16)) is None
    assert_left_to_peft(low, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted().plain_adapter(torch.ones(1, 24)) is None
        assert adapted()(torch.ones(64, 24)).dtype == torch.bfloat16


def test_a_merged_layer_answers_as_before(library: None) -> None:
    layer, x = adapted(), torch.randn(5, 24)
    truth = {"output": exact_copy(layer)(x.double())}
    before = {"output": layer(x)}
    layer.merge()
    assert_as_near(truth, before, {"output": layer(x)})
    layer.unmerge()  # leaves the rounding of the merged weights
    assert_as_near(truth, before, {"output": layer(x)})


def test_gradients_are_those_that_differences_give() -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(8)
    weight, bias = draw(5, 4).detach(), draw(5).detach()
    assert gradcheck(
        lambda x, a, b: LoraFunction.apply(x, weight, bias, a, b, 1.5),
        (draw(2, 3, 4), draw(2, 4), draw(5, 2)),
    )
    assert gradcheck(SwiGLU.apply, (draw(2, 3), draw(2, 3)))


@pytest.mark.parametrize("rows", [(3,), (40,), (2, 50)])
def test_a_linear_layer(rows: tuple[int, ...], library: None) -> None:
    """Few rows, many, and an input with gaps between its rows."""
    torch.manual_seed(9)
    layer = OneDnnLinear(24, 40)
    wide = torch.randn(*rows, 30)
    reference = exact_copy(layer)
    for x in (wide[..., :24].contiguous(), wide[..., 3:27]):
        assert_as_near(
            results(reference, nn.Linear.forward, x.double()),
            results(layer, nn.Linear.forward, x),
            results(layer, OneDnnLinear.forward, x),
        )


def test_a_result_is_no_view(library: None) -> None:
    """Sharding warns of views: changing one in place would lose its hooks."""
    x = torch.randn(2, 50, 24)
    assert not OneDnnLinear(24, 40, bias=False)(x)._is_view()
    assert not adapted()(x)._is_view()


def test_a_compiled_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: torch.compile takes oneDNN's operator for constant weights alone."""
    monkeypatch.setattr(onednn_linear, "ONEDNN", True)
    separate_caches()
    layer = adapted()
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(64, 24)
    truth = results(exact_copy(layer), PeftLoraLinear.forward, x.double())
    eager, found = (results(layer, forward, x) for forward in (call, lambda _, x: compiled(x)))
    assert_as_near(truth, eager, found)


def call(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's own forward."""
    output: Tensor = layer(x)
    return output
