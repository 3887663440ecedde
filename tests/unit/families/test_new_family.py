"""A model family is one folder and one line: `vipllava/` here, and `FAMILIES` in the fixture.

Everything that the product does with a checkpoint then works with one of the new family, by the
same commands. Its network is transformers', so transformers and peft judge the results.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from runs import answers_in
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from vipllava.family import IMAGE_TOKEN, VIP_LLAVA

from dsvl_tune import families
from dsvl_tune.cli.main import main
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.float64 import in_float64
from dsvl_tune.training.run.trainer import run_callbacks

COLORS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
TOKENS = 16
"""Visual tokens of an image: 32 px in patches of 8."""
STEPS = 12


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and the special ones: no vocabulary of DeepSeek's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<pad>", IMAGE_TOKEN]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_TOKEN],
    )


def write_checkpoint(folder: Path) -> None:
    """A random model: CLIP and Qwen2, whose attention has biases, with tied embeddings."""
    tokenizer = byte_tokenizer()
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = VipLlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "image_size": 32,
            "patch_size": 8,
            **layers,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 64,
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            **layers,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layers=[1, -1],
        image_seq_length=TOKENS,
        tie_word_embeddings=True,
    )
    torch.manual_seed(11)
    model = VipLlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.7 * parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(folder: Path) -> None:
    """Questions about the color of an image, and one without an image."""
    rows = []
    for number in range(12):
        color = list(COLORS)[number % 3]
        name = f"{number}.png"
        Image.new("RGB", (24 + number, 40), COLORS[color]).save(folder / name)
        rows.append({"question": "Which color?", "answer": color, "image": name})
    rows.append({"question": "Which color is the sky?", "answer": "blue"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    (folder / "test.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[:3]), encoding="utf-8"
    )


RECIPE: dict[str, Any] = {
    "run_name": "new",
    "model": {
        "checkpoint": "base",
        "preset": "lora",
        "parts": {"projector": {"mode": "full"}},
        "lr": 0.01,
        "warmup_steps": 2,
        "lora_dropout": 0.1,
        "max_new_tokens": 8,
    },
    "data": {
        "class_path": "dsvl_tune.datamodules.InstructDataModule",
        "init_args": {
            "train": "train.jsonl",
            "validation": "test.jsonl",
            "batch_size": 4,
            "num_workers": 0,
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "val_check_interval": 3,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
}


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with a checkpoint, rows, a recipe and its run; and the one line."""
    folder = tmp_path_factory.mktemp("new_family")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "FAMILIES", [*families.FAMILIES, VIP_LLAVA])
        patch.chdir(folder)
        write_checkpoint(folder / "base")
        write_rows(folder)
        Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
        run("fit", "--config", "recipe.yaml")
        yield folder


def run(*arguments: str, code: int = 0) -> None:
    """A command that ends with this exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dsvl-tune", *arguments])
        try:
            main()
            ended = 0
        except SystemExit as error:
            ended = int(error.code or 0)
    assert ended == code


def losses(name: str) -> list[float]:
    with next((Path("runs") / name / "metrics").rglob("metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def trained_tensors(name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        f"runs/{name}/checkpoints/last.ckpt", weights_only=True
    )["state_dict"]
    return state


def test_a_head_under_its_older_name_is_not_tied(there: Path) -> None:
    """config.json says tied, and the files have a head of their own all the same."""
    shutil.copytree("base", "untied")
    tensors = load_file("base/model.safetensors")
    (embeddings,) = (tensors[name] for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(
        {**tensors, "language_model.lm_head.weight": -embeddings},
        "untied/model.safetensors",
        metadata={"format": "pt"},
    )
    assert open_checkpoint("base").config.tie_word_embeddings
    model = create_model(open_checkpoint("untied"))
    assert torch.equal(model.lm_head.weight, -model.get_input_embeddings().weight)


def test_a_run_learns() -> None:
    found = losses("new")
    assert len(found) == STEPS
    assert sum(found[-3:]) / 3 < 0.7 * found[0]
    plan = json.loads(Path("runs/new/plan.json").read_text(encoding="utf-8"))
    assert {part: how["mode"] for part, how in plan.items()} == {
        "tower": "frozen",
        "projector": "full",
        "embed_tokens": "frozen",
        "language_model": "lora",
    }


class InterruptAt(L.Callback):
    """Presses Ctrl-C while the sixth micro-batch is in work."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 5:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_run_resumes_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("fit", "--config", "recipe.yaml", "--run_name", "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(
            "dsvl_tune.training.run.trainer.run_callbacks",
            lambda *arguments, **settings: [InterruptAt(), *run_callbacks(*arguments, **settings)],
        )
        run(*options, code=130)
    run(*options)
    whole, resumed = trained_tensors("new"), trained_tensors("stopped")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_packed_trees_train_as_single_rows() -> None:
    options = ("--model.lora_dropout", "0", "--trainer.max_steps", "3")
    for name, packing in (("single", "null"), ("packed", "200")):
        run(
            "fit",
            "--config",
            "recipe.yaml",
            "--run_name",
            name,
            *options,
            "--data.pack_tokens",
            packing,
            "--data.batch_size",
            "13",
        )
    assert losses("packed") == pytest.approx(losses("single"), rel=1e-4)


def test_the_merged_checkpoint_is_pefts_in_plain_transformers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("merge", "runs/new", "--out", "merged")
    output = capsys.readouterr().out
    assert re.search(r"greedy answers equal: 100\.0 %", output)
    plain = AutoModelForImageTextToText.from_pretrained("merged")
    base = AutoModelForImageTextToText.from_pretrained("base")
    adapted = PeftModel.from_pretrained(base, "runs/new/adapter")
    tokenizer = PreTrainedTokenizerFast.from_pretrained("merged")
    with Image.open("1.png") as image:
        processor = AutoImageProcessor.from_pretrained("merged", backend="pil")
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    text = f"<s>USER: {IMAGE_TOKEN * TOKENS}Which color? ASSISTANT:"
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = adapted(**inputs, pixel_values=pixels).logits
        assert (plain(**inputs, pixel_values=pixels).logits - expected).abs().max() < 1e-4
    ids = plain.generate(**inputs, pixel_values=pixels, max_new_tokens=8, do_sample=False)
    answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    run("chat", "--model", "merged", "--image", "1.png", "--prompt", "Which color?")
    assert capsys.readouterr().out.strip() == answer.strip()


def test_a_4_bit_base_has_its_language_model_alone_in_4_bits() -> None:
    run(
        "fit",
        "--config",
        "recipe.yaml",
        "--run_name",
        "nf4",
        "--trainer.max_steps",
        "2",
        "--model.quantization",
        "nf4",
    )
    plan = json.loads(Path("runs/nf4/plan.json").read_text(encoding="utf-8"))
    quantized = {
        part: how["quantized_layers"] for part, how in plan.items() if "quantization" in how
    }
    assert quantized == {"language_model": 2 * 7}


def test_a_layout_that_the_family_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run("convert", "base", "converted", "--to", "original", code=2)
    assert "one layout" in capsys.readouterr().err
    assert not Path("converted").exists()


def test_float64_holds_in_its_norms_too() -> None:
    """Against torch's own norm; that of transformers computes in float32 whatever it is given."""
    model = create_model(open_checkpoint("base"))
    apart = []

    def compare(norm: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight, epsilon = norm.weight.double(), norm.variance_epsilon
        expected = torch.nn.functional.rms_norm(inputs[0], weight.shape, weight, epsilon)
        apart.append((output - expected).abs().max().item())

    for module in model.modules():
        if type(module).__name__ == "Qwen2RMSNorm":
            module.register_forward_hook(compare)
    with torch.no_grad(), in_float64(model):
        logits = model(input_ids=torch.arange(5, 25)[None]).logits
    assert logits.dtype == torch.float64
    assert len(apart) == 2 * 2 + 1
    assert max(apart) < 1e-13


def test_predictions_are_those_of_the_run() -> None:
    run("predict", "--config", "runs/new/config.yaml", "--ckpt_path", "best")
    folder = Path("runs/new/predictions")
    assert answers_in(folder / "predict.jsonl") == answers_in(folder / "test_after.jsonl")
    assert len(answers_in(folder / "predict.jsonl")) == 3


def test_check_data_counts_its_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """One token a byte, for the beginning and for the end, and those of the image."""
    run("check-data", "--config", "recipe.yaml", "--json", "report.json")
    assert "no errors" in capsys.readouterr().out
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))["splits"]["train"]
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    images = [TOKENS * ("image" in row) for row in rows]
    prompts = [f"USER: {row['question']} ASSISTANT:" for row in rows]
    answers = [1 + len(row["answer"]) + 1 for row in rows]
    lengths = [
        1 + image + len(prompt) + answer
        for image, prompt, answer in zip(images, prompts, answers, strict=True)
    ]
    assert (report["tokens"], report["longest"]) == (sum(lengths), max(lengths))
    assert report["supervised"] == sum(answers)
    assert report["with_images"] == 12


def test_memory_is_estimated_from_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    run("estimate-memory", "--config", "recipe.yaml")
    output = capsys.readouterr().out
    for part in ("tower", "projector", "embed_tokens", "language_model"):
        assert part in output


@pytest.mark.parametrize("projector", ["full", "frozen"])
def test_a_run_on_cached_features_is_the_run_without(
    projector: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a frozen projector its output is cached, else its input."""
    options = ("--config", "recipe.yaml", "--model.parts.projector.mode", projector)
    cache = ("--model.feature_cache", f"features_{projector}", "--model.feature_dtype", "float32")
    plain, cached = f"plain_{projector}", f"cached_{projector}"
    run("cache-features", *options, *cache)
    assert "12 distinct; 0 were cached, 12 added" in capsys.readouterr().out
    short = ("--trainer.max_steps", "3")
    run("fit", *options, *short, "--run_name", plain)
    capsys.readouterr()
    run("fit", *options, *short, *cache, "--run_name", cached)
    assert "has every image" in capsys.readouterr().out
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-5)


def test_the_preview_shows_its_images() -> None:
    run("preview", "--config", "recipe.yaml", "--out", "preview.html")
    page = Path("preview.html").read_text(encoding="utf-8")
    assert f"image 1: {TOKENS} tokens" in page and page.count("<figure>") >= 3
