"""Exports in vLLM with our plugin: clients of its server get what `dsvl-tune chat` says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from environments import vllm_environment
from openai import OpenAI
from PIL import Image
from random_training import train_randomly
from served_by_vllm import ask, ask_all, expected, found, serving
from trained_model import Record
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.interop import VLLM
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.export.merge_adapter import merge_into, read_changes
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.config import is_hybrid
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import load_trained, save_trained

PARTS = {"language_model": PartPlan("lora", rank=4), "aligner": PartPlan("full")}
TOKENS = 12
# Transparent, of a palette, gray, a side of 6 px; some have a short side that is truncated.
BADGE, *IMAGES = (
    ImageRef(path, path.name)
    for path in sorted((Path(__file__).parents[1] / "golden" / "hybrid" / "images").iterdir())
)
COMPARED = (
    Turn("user", ("Compare ", IMAGES[0], " and ", IMAGES[3])),
    Turn("assistant", ("They differ.",)),
    Turn("user", ("How?",)),
)
QUESTIONS = [
    *(Conversation((Turn("user", (image, "What is this?")),), image.name) for image in IMAGES),
    Conversation(COMPARED, "two images within the text", system="Be brief."),
    Conversation((Turn("user", ("What is this?",)),), "text alone"),
]


class Served(NamedTuple):
    """A server, and the models that it serves: the merged one, and one with an adapter on it."""

    client: OpenAI
    checkpoint: Checkpoint
    models: dict[str, PreTrainedModel]

    @property
    def kind(self) -> str:
        """hybrid or siglip."""
        return "hybrid" if is_hybrid(self.models["merged"].config) else "siglip"


@pytest.fixture(scope="module", params=["embedded", "siglip"])
def served(
    request: pytest.FixtureRequest,
    wide_siglip_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The embedded checkpoint, and a random one without SAM; the parts of both moved at random."""
    home = tmp_path_factory.mktemp("vllm")
    base = Path("embedded")
    if request.param == "siglip":
        base = with_wider_heads(wide_siglip_checkpoint, home / "base")
    save_trained(train_randomly(base, PARTS), home / "trained", open_checkpoint(base))
    (home / "merged").mkdir()
    weights = Weights(open_checkpoint(base))
    changes = read_changes(home / "trained", weights.checkpoint.family)
    merge_into(weights, changes, home / "merged", "transformers", torch.float32)
    merged = open_checkpoint(home / "merged")
    tuned = train_randomly(merged.folder, {"language_model": PartPlan("lora", rank=4)})
    save_trained(tuned, home / "tuned", merged)
    models = {"merged": create_model(merged).eval(), "tuned": create_model(merged)}
    load_trained(models["tuned"], home / "tuned")
    models["tuned"].eval()
    with serving(
        vllm_environment(),
        merged.folder,
        {"tuned": home / "tuned"},
        home / "log",
        "--enforce-eager",
        "--max-model-len",
        str(merged.processor.context_tokens),
    ) as client:
        yield Served(client, merged, models)


def with_wider_heads(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint with half as many attention heads, each 32 wide.

    vLLM's attention on a CPU knows no narrower ones.
    """
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config["text_config"]
    for key in ("num_attention_heads", "num_key_value_heads"):
        text[key] //= 2
    text["head_dim"] = text["hidden_size"] // text["num_attention_heads"]
    assert text["head_dim"] == 32
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_answers_token_by_token(served: Served, record: Record) -> None:
    """All asked at once, so that the server batches them, those of both models together."""
    asked = [(model, question) for question in QUESTIONS for model in ("merged", "tuned")]
    answers = ask_all(served.client, asked, TOKENS)
    wanted = [
        expected(served.models[model], served.checkpoint, question, TOKENS)
        for model, question in asked
    ]
    assert [found(answer) for answer in answers] == wanted
    assert len({tuple(answer) for _, answer in wanted}) > len(QUESTIONS) // 2
    record(
        f"vLLM {VLLM} (CPU build), transformers 5.19.0",
        f"merged, {served.kind}: the OpenAI endpoint with our plugin, several images and turns, "
        f"an adapter by name, {len(asked)} requests at once",
        "the answers of `chat`, token by token",
    )


def test_streaming(served: Served) -> None:
    question = QUESTIONS[0]
    whole = ask(served.client, "merged", question, TOKENS).choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(served.client, "merged", question, TOKENS, stream=True)
    ]
    assert whole and len(pieces) > 2 and "".join(pieces) == whole


def test_transparency_is_put_on_white(served: Served) -> None:
    """By vLLM, before anyone else sees the image; `chat` shows the color below."""
    assert isinstance(BADGE.content, Path)
    badge = Image.open(BADGE.content)
    white = Image.new("RGBA", badge.size, "white")
    on_white = ImageRef(Image.alpha_composite(white, badge).convert("RGB"), "on white")
    asked, wanted = (
        Conversation((Turn("user", (image, "What is this?")),), image.name)
        for image in (BADGE, on_white)
    )
    answer = ask(served.client, "merged", asked, TOKENS)
    merged = served.models["merged"]
    assert found(answer) == expected(merged, served.checkpoint, wanted, TOKENS)
