"""Exports in other releases of transformers, and in the original code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from environments import TORCH, environment, run_script
from random_training import train_randomly
from safetensors.torch import load_file
from trained_model import Record, Trained

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.interop import PEFT, TRANSFORMERS
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import save_trained

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL_CODE = os.environ.get("DEEPSEEK_VL_CODE", "")
"""A checkout of github.com/deepseek-ai/DeepSeek-VL."""
CURRENT, EARLIER = TRANSFORMERS
BOUND = 1e-4
"""Of the largest difference of float32 logits, as a fraction of their spread."""


def earlier_transformers() -> Path:
    """The interpreter of an environment with the earlier release."""
    packages = [TORCH, f"transformers=={EARLIER}", f"peft=={PEFT}", "pillow", "jinja2"]
    return environment(f"transformers-{EARLIER}", packages)


def largest(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max())


def test_plain_transformers(trained: Trained, tmp_path: Path, record: Record) -> None:
    """The release that this project runs on, and an earlier one in an environment of its own."""
    found = {}
    for version, python in ((CURRENT, Path(sys.executable)), (EARLIER, earlier_transformers())):
        out = tmp_path / f"{version}.safetensors"
        said = run_script(
            python, "plain_transformers.py", trained.transformers, trained.inputs, out
        )
        assert said.splitlines()[-1] == version
        found[version] = load_file(out)
        difference = largest(found[version]["logits"], trained.logits)
        assert difference <= BOUND * trained.logits.std()
        assert torch.equal(found[version]["greedy_ids"], trained.greedy_ids)
        assert torch.equal(found[version]["own_input_ids"], load_file(trained.inputs)["input_ids"])
        record(
            f"transformers {version}",
            f"merged, {trained.kind}: model, processor, `generate`, pipeline",
            f"0 missing keys, same ids, logits within {difference:.0e}, same greedy answer",
        )
    one, two = found.values()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_an_adapter_in_plain_peft(trained: Trained, tmp_path: Path, record: Record) -> None:
    """Adapters of the language model and of SigLIP, and the aligner as a whole."""
    for version, python in ((CURRENT, Path(sys.executable)), (EARLIER, earlier_transformers())):
        out = tmp_path / f"{version}.safetensors"
        said = run_script(
            python, "plain_peft.py", trained.base, trained.adapter, trained.inputs, out
        )
        assert said.splitlines()[-1] == version
        found = load_file(out)
        assert largest(found.pop("base"), trained.logits) > trained.logits.std()
        difference = max(largest(logits, trained.logits) for logits in found.values())
        assert difference <= BOUND * trained.logits.std()
        record(
            f"peft {PEFT}, transformers {version}",
            f"adapter, {trained.kind}: {', '.join(found)}",
            f"logits within {difference:.0e}",
        )


def test_a_whole_siglip_is_refused_by_peft_on_an_earlier_transformers(
    trained: Trained, tmp_path: Path, record: Record
) -> None:
    if trained.kind == "janus":
        pytest.skip("Janus's SigLIP has the same names in both releases")
    parts = {"siglip": PartPlan("full"), "language_model": PartPlan("lora", rank=4)}
    save_trained(train_randomly(trained.base, parts), tmp_path, open_checkpoint(trained.base))
    arguments = (trained.base, tmp_path, trained.inputs, tmp_path / "out.safetensors")
    assert run_script(Path(sys.executable), "plain_peft.py", *arguments)
    with pytest.raises(AssertionError, match=r"KeyError: '.*vision_model\.vision_model\."):
        run_script(earlier_transformers(), "plain_peft.py", *arguments)
    record(
        f"peft {PEFT}, transformers {EARLIER}",
        f"adapter with a fully trained SigLIP, {trained.kind}",
        "refused: KeyError",
    )


def test_deepseek_vl2_is_refused(tmp_path: Path, record: Record) -> None:
    """transformers has no class for it, in either layout, and says so."""
    base = Weights(open_checkpoint(GOLDEN / "deepseek_vl2" / "tiny" / "checkpoint"))
    folders = [tmp_path / "transformers", tmp_path / "original"]
    for folder in folders:
        folder.mkdir()
        merge_into(base, {}, folder, folder.name, torch.float32)
    for version, python in ((CURRENT, Path(sys.executable)), (EARLIER, earlier_transformers())):
        assert run_script(python, "refused.py", *folders).splitlines()[-1] == version
        record(f"transformers {version}", "merged, DeepSeek-VL2, both layouts", "refused")


@pytest.mark.skipif(not ORIGINAL_CODE, reason="DEEPSEEK_VL_CODE names no checkout")
def test_original_code(trained: Trained, tmp_path: Path, record: Record) -> None:
    if trained.kind == "janus":
        pytest.skip("Janus has a code base of its own")
    python = environment(
        "original-code",
        [
            *(TORCH, "transformers==4.38.2", "numpy<2", "timm==0.9.16"),
            *("attrdict", "einops", "sentencepiece", "accelerate", "pillow"),
        ],
    )
    out = tmp_path / "found.safetensors"
    asked = trained.inputs.with_suffix(".json")
    run_script(python, "original_code.py", ORIGINAL_CODE, trained.original, asked, out)
    found = load_file(out)
    assert torch.equal(found["input_ids"], load_file(trained.inputs)["input_ids"])
    difference = largest(found["logits"], trained.logits)
    assert difference <= BOUND * trained.logits.std()
    assert torch.equal(found["greedy_ids"], trained.greedy_ids)
    record(
        "original code 681bffb, transformers 4.38.2",
        f"merged with `--layout original`, {trained.kind}: model, processor, `generate`",
        f"same ids, logits within {difference:.0e}, same greedy answer",
    )
