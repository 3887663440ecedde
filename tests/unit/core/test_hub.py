"""Checkpoints from a hub: a revision, a new name, refusals, and downloads that are cut off."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from hub_server import COMMITS, HubServer, serving
from huggingface_hub import constants, file_download
from peft import AutoPeftModel
from random_training import train_randomly
from transformers import AutoModelForImageTextToText

from dsvl_tune.cli.main import main
from dsvl_tune.core.checkpoint import hub
from dsvl_tune.core.checkpoint.hub import HubName, hub_name
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.data.readers.open import open_rows
from dsvl_tune.evaluation.benchmarks import BENCHMARKS
from dsvl_tune.evaluation.benchmarks.layouts.open import open_benchmark
from dsvl_tune.families import open_checkpoint, open_sizes
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import save_trained
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe, complete_settings
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.manifest import manifest

SAMPLES = Path(__file__).parents[2] / "golden" / "benchmark_samples"


@pytest.fixture
def server(hybrid_checkpoint: Path, tmp_path: Path) -> Iterator[HubServer]:
    """owner/model on a hub: its main branch, and an older v1 with another context length."""
    older = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "older"))
    settings = json.loads((older / "config.json").read_text(encoding="utf-8"))
    settings["text_config"]["max_position_embeddings"] = 99
    (older / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    revisions = {COMMITS["main"]: hybrid_checkpoint, COMMITS["v1"]: older}
    with serving(revisions, {"owner/chartqa": SAMPLES / "lmms_ChartQA"}) as running:
        yield running


@pytest.fixture(autouse=True)
def own_hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN set when the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.download_checkpoint.cache_clear()
    hub.fetch_headers.cache_clear()
    hub.fetch_config.cache_clear()
    hub.note_new_name.cache_clear()
    hub.download_data_set.cache_clear()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def test_a_name_with_a_revision() -> None:
    assert hub_name("owner/model@v1") == HubName("owner/model", "v1")
    assert hub_name("owner/model@refs/pr/1") == HubName("owner/model", "refs/pr/1")
    assert hub_name("owner/model") == HubName("owner/model", None)
    for name in ("embedded", "./owner/model", "a/b/c", "/owner", "owner"):
        assert hub_name(name) is None


@pytest.mark.parametrize(("revision", "context"), [("", 512), ("@v1", 99), ("@" + "b" * 40, 99)])
def test_a_revision_is_downloaded_and_recorded(revision: str, context: int) -> None:
    checkpoint = open_checkpoint(f"owner/model{revision}")
    commit = COMMITS["v1" if revision else "main"]
    assert checkpoint.processor.context_tokens == context
    assert (checkpoint.address, checkpoint.commit) == ("owner/model", commit)
    assert manifest(checkpoint, None, {}, "run")["checkpoint"]["commit"] == commit
    assert Weights(checkpoint).shapes


@pytest.mark.parametrize("name", ["owner/model", "owner/model@v1"])
def test_a_revision_as_a_key_of_its_own(name: str) -> None:
    """It goes after the checkpoint's name, for model and data alike."""
    keys = ["--config=charts_lora", f"--model.checkpoint={name}", "--model.revision=v1"]
    recipe = Recipe.parse(recipe_parser(), keys)
    assert recipe.settings["model"]["checkpoint"] == "owner/model@v1"
    assert recipe.settings["data"]["init_args"]["checkpoint"] == "owner/model@v1"
    assert recipe.model.base.commit == COMMITS["v1"]
    assert recipe.data.read_processor().context_tokens == 99
    assert complete_settings(recipe.settings) == recipe.settings
    assert FinetuneModule(name, revision="v1").base.commit == COMMITS["v1"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("owner/model@v2", "model.checkpoint is owner/model@v2, another revision. Give one"),
        ("embedded", "only a checkpoint on the hub .* model.checkpoint is embedded"),
    ],
)
def test_a_revision_that_does_not_fit_the_name(name: str, said: str) -> None:
    keys = ["--config=charts_lora", f"--model.checkpoint={name}", "--model.revision=v1"]
    with pytest.raises(UserError, match=f"model.revision v1: {said}"):
        Recipe.parse(recipe_parser(), keys)


def test_an_adapter_names_its_base_on_the_hub_and_the_commit(
    server: HubServer, hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    """Those who follow it get that commit, in plain peft and by the lines of the README."""
    tuned = train_randomly(hybrid_checkpoint, {"language_model": PartPlan("lora", rank=2)})
    save_trained(tuned, tmp_path / "adapter", open_checkpoint("owner/model@v1"))
    readme = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    named = f'"owner/model", revision="{COMMITS["v1"]}"'
    followed = f'AutoModelForImageTextToText.from_pretrained("FOLDER", revision="{COMMITS["v1"]}")'
    assert named in readme and followed in readme and str(tmp_path) not in readme
    for model in (
        AutoPeftModel.from_pretrained(tmp_path / "adapter"),
        AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter", revision=COMMITS["v1"]),
    ):
        assert model.config.text_config.max_position_embeddings == 99


def test_sizes_of_a_revision_take_no_weights(server: HubServer) -> None:
    assert open_sizes("owner/model@v1").config.text_config.max_position_embeddings == 99
    headers = [asked for asked in server.ranges if asked.startswith("model.safetensors")]
    assert headers and all(asked.startswith("model.safetensors bytes=0-") for asked in headers)


def test_a_repository_that_was_renamed(capsys: pytest.CaptureFixture[str]) -> None:
    assert open_checkpoint("owner/old").config
    said = capsys.readouterr().err
    assert said.count("owner/old is called owner/model on the hub now") == 1


@pytest.mark.parametrize(
    ("name", "hubs_line", "advice"),
    [
        ("owner/gated", "is restricted", "accept its license at {url}/owner/gated"),
        ("owner/private", "Invalid username", "if the repository is private, log in with"),
        ("owner/nobody", "Repository not found", "Check the name at {url}/owner/nobody"),
        ("owner/model@none", "Invalid rev id", "no revision none: see {url}/owner/model/commits"),
        ("owner/disabled", "is disabled", "The hub has disabled the repository"),
        ("owner/mo del", "alphanumeric", "No name on the hub has this form"),
    ],
)
def test_refusals_say_what_to_do(name: str, hubs_line: str, advice: str, server: HubServer) -> None:
    for open_it in (open_checkpoint, open_sizes):
        with pytest.raises(UserError) as refused:
            open_it(name)
        message = str(refused.value)
        assert hubs_line in message and advice.format(url=server.url) in message
        assert message.count(hubs_line) == 1 and "\n" not in message


def test_a_download_that_is_cut_off_is_resumed(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    server.cut["model.safetensors"] = 3
    assert Weights(open_checkpoint("owner/model")).shapes
    size = (server.revisions[COMMITS["main"]] / "model.safetensors").stat().st_size
    begins = [int(asked.split("=")[1].split("-")[0]) for asked in server.ranges]
    assert len(begins) == 3 and begins == sorted(begins) and size // 3 < begins[0] < size


def test_what_is_complete_is_not_downloaded_again(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    server.cut["model.safetensors"] = 1_000
    with pytest.raises(UserError, match="which downloads what is not complete yet"):
        open_checkpoint("owner/model")
    server.cut.clear()
    server.requests.clear()
    assert Weights(open_checkpoint("owner/model")).shapes
    assert server.requests["GET model.safetensors"] == 1
    assert server.requests["GET tokenizer.json"] == 0


def test_what_is_cached_needs_no_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_checkpoint("owner/model@v1").commit == COMMITS["v1"]
    hub.download_checkpoint.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_checkpoint("owner/model@v1").commit == COMMITS["v1"]
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set and the cache lacks it"):
        open_checkpoint("owner/model@main")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="Check the network and start the command again"):
        open_checkpoint("owner/model")


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = ["convert", "owner/model@v1", str(out), "--to", "original"]
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    main()
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert written["language_config"]["max_position_embeddings"] == 99
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "base_model: owner/model\n" in card and "# DeepSeek-VL from owner/model@v1" in card
    assert f"The base is commit {COMMITS['v1']} of owner/model." in card


def test_a_benchmark_by_the_name_of_its_data_set() -> None:
    chartqa = BENCHMARKS["chartqa"]
    found = open_benchmark(chartqa, "owner/chartqa").rows
    here = open_benchmark(chartqa, str(SAMPLES / "lmms_ChartQA")).rows
    assert [row.cells for row in found] == [row.cells for row in here]
    with pytest.raises(UserError, match=r"owner/chartqa: .* no file of cmmmu\. Expected CMMMU_VAL"):
        open_benchmark(BENCHMARKS["cmmmu"], "owner/chartqa")
    with pytest.raises(UserError, match=r"Check the name at .*/datasets/owner/nobody"):
        open_benchmark(chartqa, "owner/nobody")


def test_training_rows_by_the_name_of_their_data_set() -> None:
    rows = open_rows("owner/chartqa#test")
    here = pq.read_table(next((SAMPLES / "lmms_ChartQA").glob("*.parquet"))).to_pylist()
    found = [record.value() for record in rows.iterate()]
    assert [row["question"] for row in found] == [row["question"] for row in here]
    with pytest.raises(UserError, match="owner/nobody"):
        open_rows("owner/nobody")
