"""Records the bits of what the product computes, and holds another checkout to the same bits.

A change that moves code must not move a number. This script gives the commands that a user gives
(`fit`, `merge`, ...) with small work and keeps what comes out: a SHA-256 of every tensor, and every
logged loss, score and answer. Where a later checkout compares as equal, its weights, optimizer
states, losses, answers, converted files, token ids and pixels are the same, bit for bit, in every
case of `CASES`. It proves nothing about speed, memory, messages, or commands that no case gives.

    python tests/recorded_bits.py record --checkout DIR --out bits.json
    python tests/recorded_bits.py compare --checkout DIR --against bits.json
    python tests/recorded_bits.py compare --checkout DIR --against bits.json --only preview

`compare` runs the cases again, prints a table and the first values that differ, and exits with 1 if
any does. All cases take some minutes on two cores. Use the interpreter of an environment that has
the product's dependencies, those of the extra `qlora` among them; the product itself is imported
from DIR. Other library releases and other processors round differently: both are recorded, and
`compare` warns where they are not the same. What the cases read besides recipes is of the checkout
that this script lies in. Run the script of the recorded checkout where a later one changed that.

The script relies on the command line, the names of recipes and the files of a run, so the modules
of a checkout may lie anywhere. Where it has other names for keys and files, adapt the tables
below; what is recorded keeps the names of the first recording, so older recordings stay good. Where
it means to give other values, `--except "merge_report.json: "` leaves out those with such names.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor

# --- What may be called otherwise in another checkout --------------------------------------------

HERE = Path(__file__).resolve().parent
INPUTS = {
    "own_data": HERE.parent / "examples" / "own_data",
    "chart.png": HERE.parent / "examples" / "chart.png",
    "hybrid": HERE / "golden" / "hybrid" / "checkpoint",
    "siglip": HERE / "golden" / "siglip" / "checkpoint",
}
"""What the cases are given besides recipes: from this script's checkout, the same for all."""

RECIPE_KEYS: dict[str, str] = {}
"""Recipe key of the cases -> the checkout's, for those whose old name no longer works. Of a dotted
key the last word alone, wherever it stands, such as "batch_size"."""

DATA_MODULES = "dsvl_tune.datamodules"
"""Where a recipe's data modules are imported from."""

RECORDED_NAMES = [
    (r"^summary: majority_baseline\.", "summary: floor."),
    (r"(: splits\.\w+)\.supervised$", r"\1.learnt"),
]
"""Patterns in names of values, and the name of the first recording in their place."""

RUN_FILES = {
    "result": "adapter/*.safetensors",
    "result settings": "adapter/adapter_config.json",
    "last": "checkpoints/last.ckpt",
    "best": "checkpoints/best*.ckpt",
    "metrics": "metrics/*/metrics.csv",
    "answers": "predictions/*.jsonl",
    "summary": "summary.json",
}
"""Files of a run folder, by what they are recorded as."""

OPTIONAL = ("result settings", "best")
"""Those that not every run has."""

KEYS = {"step": "step", "splits": "splits", "errors": "errors"}
"""The column of steps in a run's metrics, and keys of a data report."""

ROW_KEYS = {"source": "origin", "question_type": "kind"}
"""Key of an answered row -> its name in the first recording. See also `first_form`."""

NOT_COMPARED = re.compile(
    r"(?i)(^|_)version$|^date$|^wall_s$|^peak_|tokens/s|best_checkpoint|name_or_path$|^base$"
)
"""Keys of JSON and columns of CSV that hold no result."""

STOPPED = 75
"""Exit code of a run that was asked to stop and can be resumed."""

PREVIEW_TITLE = {
    "ids": r"\bid (\d+)",
    "positions": r"\bpositions? (\d+)",
    "branches": r"\bbranch (\d+)",
    "weights": r"\bweight ([\d.e+-]+)",
}
"""What a token's element says in its `title`, by the first group. Without any it is no token."""

PREVIEW_LEARNT = ("learnt", "supervised")
"""Classes of a supervised token's element."""

PREVIEW_MARKS = "·↵→"
"""What stands for white space in a token's element; it is left out, as white space is."""


def first_form(row: dict[str, Any]) -> dict[str, Any]:
    """An answered row as the first recording has it: one reference, and whether it was met."""
    row = {ROW_KEYS.get(key, key): value for key, value in row.items()}
    if "references" in row:
        row["reference"] = (row.pop("references") or [""])[0]
    if "scores" in row:
        score = (row.pop("scores") or {}).get("relaxed_accuracy")
        row["right"] = None if score is None else score == 1
    return row


# --- Running commands ----------------------------------------------------------------------------

Values = dict[str, Any]
"""Name -> a digest, a number, a text or a list of those."""

APART = "differs from the straight run in"
"""Name of a resumed run's list of values that the run without a stop has otherwise."""


class Failure(Exception):
    """A case cannot be recorded."""


class Workplace:
    """Gives a checkout's commands in one temporary folder, in a fixed environment.

    Attributes:
        checkout: whose package is run.
        folder: where the commands are given; its `inputs` has those of `INPUTS`.
        through: words put before every command, such as `nice` or `flock FILE`.
    """

    def __init__(self, checkout: Path, root: Path, through: list[str]) -> None:
        self.checkout, self.folder, self.through = checkout, root / "work", through
        self.done: dict[str, Any] = {}
        for name in ("home", "cache", "temporary"):
            (root / name).mkdir(parents=True)
        kept = ("PATH", "LD_LIBRARY_PATH", "LANG")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "PYTHONPATH": str(checkout),
            "HOME": str(root / "home"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "HF_HOME": str(root / "cache" / "huggingface"),
            "TMPDIR": str(root / "temporary"),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUTF8": "1",
        }
        for name, source in INPUTS.items():
            target = self.folder / "inputs" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        self.check_imports()

    def check_imports(self) -> None:
        """Stop if the environment's own installation would be run in place of the checkout's."""
        command = [sys.executable, "-c", "import dsvl_tune; print(dsvl_tune.__file__)"]
        found = subprocess.check_output(
            command, env=self.environment, cwd=self.folder, text=True
        ).strip()
        if self.checkout not in Path(found).resolve().parents:
            raise SystemExit(f"{self.checkout}: not imported from there, but from {found}")

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """Standard output of a command.

        Raises:
            Failure: it ended with another code than `codes`.
        """
        return self.ended(self.start(*arguments), codes)

    def start(self, *arguments: str, pid_file: Path | None = None) -> subprocess.Popen[str]:
        """A command in work; its own process number, whatever runs it, goes to a file."""
        command = [sys.executable, "-m", "dsvl_tune", *arguments]
        if pid_file is not None:
            command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(pid_file), *command]
        return subprocess.Popen(
            [*self.through, *command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )

    def ended(self, process: subprocess.Popen[str], codes: tuple[int, ...]) -> str:
        """Wait for a command; its standard output. Raises as `run`."""
        said, errors = process.communicate()
        if process.returncode not in codes:
            command = shlex.join(map(str, process.args))
            last = f"{said[-2000:]}\n{errors[-4000:]}"
            raise Failure(f"{command}\nended with {process.returncode}:\n{last}")
        return said

    def once(self, name: str) -> Values:
        """The values of a case, which is run the first time that somebody asks.

        Raises:
            Failure: it failed, now or then.
        """
        if name not in self.done:
            try:
                self.done[name] = CASES[name](self)
            except Failure as failure:
                self.done[name] = failure
            except (KeyError, OSError, RuntimeError, ValueError) as error:  # a file of another form
                self.done[name] = Failure(f"{name}: {type(error).__name__}: {error}")
        if isinstance(self.done[name], Failure):
            raise self.done[name]
        return self.done[name]

    def plain(self, text: str) -> str:
        """A text without the names of folders that differ from run to run."""
        for folder in (self.folder, self.checkout):
            text = text.replace(str(folder), "")
        return text


def as_called(value: Any) -> Any:
    """A recipe's value with the checkout's names of keys in it."""
    if isinstance(value, dict):
        return {RECIPE_KEYS.get(key, key): as_called(inner) for key, inner in value.items()}
    return value


def options(keys: dict[str, Any]) -> list[str]:
    """Recipe keys as words of a command."""
    words = []
    for key, value in keys.items():
        section, dot, last = key.rpartition(".")
        words += [f"--{section}{dot}{RECIPE_KEYS.get(last, last)}"]
        words += [value if isinstance(value, str) else json.dumps(as_called(value))]
    return words


def data(kind: str, **keys: Any) -> dict[str, Any]:
    """The recipe keys of a data module."""
    return {"data": f"{DATA_MODULES}.{kind}"} | {
        f"data.init_args.{key}": value for key, value in keys.items()
    }


def source(kind: str, **keys: Any) -> dict[str, Any]:
    """A source of a mixture."""
    return {"class_path": f"{DATA_MODULES}.{kind}", "init_args": keys}


# --- Reading what commands leave -----------------------------------------------------------------


def digest(tensor: Tensor) -> str:
    """Dtype, shape and SHA-256 of a tensor's bytes."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {list(tensor.shape)} {hashlib.sha256(raw).hexdigest()}"


def compact(value: Any) -> Any:
    """A value as it is, or its SHA-256 if it is long."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return value if len(text) <= 2000 else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def weights(path: Path) -> Values:
    """Every tensor of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def checkpoint(path: Path) -> Values:
    """Trained tensors, optimizer state and step of a training checkpoint: a file or a folder."""
    state, tensors = {}, {}
    if path.is_dir():
        stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        tensors = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in stored.items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as meant
            dcp.load(tensors, checkpoint_id=path, no_dist=True)
        (rest,) = path.glob("*.pt")
        state = torch.load(rest, map_location="cpu", weights_only=True)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {f"state_dict.{name}": tensor for name, tensor in state["state_dict"].items()}
        for optimizer in state["optimizer_states"]:
            groups = optimizer["param_groups"]
            names = {
                number: name
                for group in groups
                for number, name in zip(group["params"], group["param_names"], strict=True)
            }
            for number, slots in optimizer["state"].items():
                tensors |= {
                    f"optimizer.{names[number]}.{slot}": kept for slot, kept in slots.items()
                }
    values: Values = {name: digest(tensor) for name, tensor in sorted(tensors.items())}
    for number, optimizer in enumerate(state["optimizer_states"]):
        for place, group in enumerate(optimizer["param_groups"]):
            values[f"group {number}.{place}.lr"] = float(group["lr"])
            values[f"group {number}.{place}.names"] = compact(group["param_names"])
    return values | {"step": state["global_step"]}


def metrics(paths: Iterable[Path]) -> Values:
    """What was logged, by column: pairs of step and value in order, from all files together."""
    columns: dict[str, dict[int, float]] = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop(KEYS["step"]))
                for name, text in row.items():
                    if text and not NOT_COMPARED.search(name):
                        columns.setdefault(name, {})[step] = float(text)
    return {name: sorted(map(list, values.items())) for name, values in sorted(columns.items())}


def answers(path: Path) -> Values:
    """The rows of a file of answers, field by field."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [first_form(json.loads(line)) for line in lines]
    names = {name for row in rows for name in row if not NOT_COMPARED.search(name)}
    return {name: [row.get(name) for row in rows] for name in sorted(names)}


def json_values(work: Workplace, content: Any, name: str = "") -> Values:
    """The leaves of parsed JSON by path; versions, dates and times left out, no folder named."""
    if isinstance(content, dict) and content:
        values: Values = {}
        for key, inner in content.items():
            if not NOT_COMPARED.search(str(key)):
                values |= json_values(work, inner, f"{name}.{key}" if name else str(key))
        return values
    return {name: json.loads(work.plain(json.dumps(compact(content))))}


def json_file(work: Workplace, path: Path) -> Values:
    """A JSON file's values; a large one (a tokenizer's) has one for each of its keys."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.stat().st_size > 20_000:
        return {key: compact(inner) for key, inner in content.items()}
    return json_values(work, content)


def under(name: str, values: Values) -> Values:
    """Values whose names begin with that of their place."""
    return {f"{name}: {key}": value for key, value in values.items()}


def found(folder: Path, what: str) -> list[Path]:
    """The files of a run that are recorded as `what`."""
    paths = sorted(folder.glob(RUN_FILES[what]))
    if not paths and what not in OPTIONAL:
        raise Failure(f"{folder}: nothing is called {RUN_FILES[what]}. Adapt RUN_FILES.")
    return paths


def run_values(work: Workplace, run: str) -> Values:
    """Everything of a run folder that is a result."""
    folder = work.folder / run
    values = under("metrics", metrics(found(folder, "metrics")))
    for path in found(folder, "result"):
        values |= under(f"result {path.name}", weights(path))
    for what in ("last", "best"):
        for path in found(folder, what):
            values |= under(what, checkpoint(path))
    for path in found(folder, "answers"):
        values |= under(f"answers {path.name}", answers(path))
    for what in ("summary", "result settings"):
        for path in found(folder, what):
            values |= under(what, json_file(work, path))
    return values


def checkpoint_folder(work: Workplace, name: str) -> Values:
    """Every tensor of a written checkpoint, and the content of its JSON files."""
    folder = work.folder / name
    values: Values = {}
    for path in sorted(folder.rglob("*.safetensors")):
        values |= under(f"{name} {path.relative_to(folder)}", weights(path))
    for path in sorted(folder.rglob("*.json")):
        values |= under(f"{name} {path.relative_to(folder)}", json_file(work, path))
    return values


class PreviewPage(HTMLParser):
    """Tokens and pictures of a preview page in its order, whatever stands around them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: Values = {name: [] for name in (*PREVIEW_TITLE, "learnt", "texts", "pictures")}
        self.open: list[str] | None = None
        self.depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        picture = given.get("src", "")
        if picture.startswith("data:image"):
            raw = b64decode(picture.partition(",")[2])
            self.values["pictures"].append(hashlib.sha256(raw).hexdigest())
        if self.open is not None and tag not in ("br", "img", "wbr"):
            self.depth += 1
        title = {
            name: re.search(what, given.get("title", "")) for name, what in PREVIEW_TITLE.items()
        }
        if self.open is None and any(title.values()):
            for name, match in title.items():
                self.values[name].append(match and float(match[1]))
            classes = given.get("class", "").split()
            self.values["learnt"].append(any(name in PREVIEW_LEARNT for name in classes))
            self.open, self.depth = [], 0

    def handle_data(self, text: str) -> None:
        if self.open is not None and not self.depth:
            self.open.append(text)

    def handle_endtag(self, tag: str) -> None:
        if self.open is not None and not self.depth:
            text = "".join(self.open) if self.values["ids"][-1] is not None else ""
            plain = text.translate(dict.fromkeys(map(ord, PREVIEW_MARKS)))
            self.values["texts"].append("".join(plain.split()))
            self.open = None
        self.depth = max(self.depth - 1, 0)


# --- The cases -----------------------------------------------------------------------------------

CHARTS_KEYS = {
    "trainer.max_steps": 40,
    "trainer.val_check_interval": 20,
    "trainer.log_every_n_steps": 1,
    "data.init_args.validation_charts": 4,
    "data.init_args.test_charts": 6,
    "data.init_args.probe_scenes": 4,
}
CHARTS = ["fit", "--config", "charts_lora", *options(CHARTS_KEYS)]


def charts_lora(work: Workplace) -> Values:
    """LoRA on the small model, 40 steps with two validations, scored before and after."""
    work.run(*CHARTS)
    return run_values(work, "runs/charts_lora")


def resumed(work: Workplace) -> Values:
    """The same run, stopped by SIGTERM once its first checkpoint is there, and resumed."""
    straight = work.once("charts_lora")
    quiet = {"run_dir": "resumed", "trainer.enable_progress_bar": False}
    command = [*CHARTS, *options(quiet)]
    pid_file = work.folder / "pid"
    process = work.start(*command, pid_file=pid_file)
    run = work.folder / "resumed" / "charts_lora"
    while process.poll() is None and not list(run.glob(RUN_FILES["last"])):
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    work.ended(process, (STOPPED,))
    stopped_at = checkpoint(found(run, "last")[0])["step"]
    if not 20 <= stopped_at < 40:
        raise Failure(f"stopped at step {stopped_at}, not between 20 and 40")
    work.run(*command)
    values = run_values(work, "resumed/charts_lora")
    unequal = []
    for name, value in straight.items():
        one, other = value, values.get(name)
        if name.startswith("metrics: "):  # the step that was stopped after may not be logged
            one, other = (
                [pair for pair in pairs or [] if pair[0] != stopped_at - 1]
                for pairs in (one, other)
            )
        if one != other:
            unequal.append(name)
    kept = {name: value for name, value in values.items() if not name.startswith("metrics: ")}
    return kept | {APART: unequal}


def merge(work: Workplace) -> Values:
    """That run merged into its base, in both layouts."""
    work.once("charts_lora")
    work.run("merge", "runs/charts_lora", "--out", "merged")
    work.run("merge", "runs/charts_lora", "--out", "merged_original", "--layout", "original")
    return checkpoint_folder(work, "merged") | checkpoint_folder(work, "merged_original")


def stage(work: Workplace, name: str, keys: dict[str, Any]) -> Values:
    """A recipe of the paper's stages, shortened, and its merge, which the next one begins with."""
    short = {
        "trainer.max_steps": 20,
        "trainer.val_check_interval": 20,
        "trainer.log_every_n_steps": 1,
    }
    work.run("fit", "--config", name, *options(short | keys))
    work.run("merge", f"runs/{name}")
    return run_values(work, f"runs/{name}") | checkpoint_folder(work, f"runs/{name}/merged")


STAGE_SOURCES = {
    "tables": source(
        "ScenesDataModule", text_share=1.0, validation_rows=0, test_rows=0, probe_tables=2
    ),
    "pictures": source(
        "ScenesDataModule", text_share=0.0, validation_rows=3, test_rows=3, probe_tables=0
    ),
}


def stages_1_align(work: Workplace) -> Values:
    """The adaptor alone."""
    few = {"validation_rows": 3, "test_rows": 3, "probe_tables": 2}
    return stage(
        work, "stages_1_align", {f"data.init_args.{key}": value for key, value in few.items()}
    )


def stages_2_pretrain(work: Workplace) -> Values:
    """Adaptor and language model on a mixture with a ramp, in steps of one kind."""
    work.once("stages_1_align")
    return stage(work, "stages_2_pretrain", {"data.init_args.sources": STAGE_SOURCES})


def stages_3_sft(work: Workplace) -> Values:
    """All but SAM on a mixture."""
    work.once("stages_2_pretrain")
    return stage(work, "stages_3_sft", {"data.init_args.sources": STAGE_SOURCES})


FEW_CHARTS = {
    "data.init_args.train_charts": 40,
    "data.init_args.validation_charts": 2,
    "data.init_args.test_charts": 2,
    "data.init_args.probe_scenes": 0,
    "data.init_args.batch_size": 4,
    "trainer.log_every_n_steps": 1,
}


def short_charts(work: Workplace, name: str, steps: int, keys: dict[str, Any]) -> Values:
    """`charts_lora` on few rows, with other keys."""
    length = {"trainer.max_steps": steps, "trainer.val_check_interval": steps // 2}
    work.run(
        "fit", "--config", "charts_lora", *options({"run_name": name} | length | FEW_CHARTS | keys)
    )
    return run_values(work, f"runs/{name}")


def qlora(work: Workplace) -> Values:
    """LoRA on a base in 4 bits (nf4), in bfloat16, checkpointed; merged into the plain base."""
    keys = {"model.preset": "qlora", "model.dtype": "bfloat16", "trainer.precision": "bf16-mixed"}
    values = short_charts(work, "qlora", 10, keys | {"model.gradient_checkpointing": True})
    work.run("merge", "runs/qlora", "--out", "merged_qlora")
    return values | checkpoint_folder(work, "merged_qlora")


def fsdp2(work: Workplace) -> Values:
    """Two processes that shard the model, with adapters and a fully trained part."""
    parts = {"language_model": {"mode": "lora", "rank": 8}, "aligner": {"mode": "full"}}
    keys = {"trainer.accelerator": "cpu", "trainer.devices": 2, "trainer.strategy": "fsdp2"}
    values = short_charts(work, "fsdp2", 6, keys | {"model.parts": parts})
    work.run("merge", "runs/fsdp2", "--out", "merged_fsdp2", "--checkpoint", "last")
    return values | checkpoint_folder(work, "merged_fsdp2")


def mixture(work: Workplace) -> Values:
    """Three sources with shares and weights, grouped by length and packed; dropout and DoRA."""
    own = source("InstructDataModule", train="inputs/own_data/train.jsonl", validation_rows=2)
    charts = {"train_charts": 40, "validation_charts": 2, "test_charts": 2, "probe_scenes": 0}
    tables = {
        "train_rows": 40,
        "text_share": 1.0,
        "validation_rows": 2,
        "test_rows": 0,
        "probe_tables": 1,
    }
    keys = {
        "run_name": "mixture",
        "best_by": "val/loss",
        "trainer.max_steps": 20,
        "trainer.val_check_interval": 20,
        "trainer.accumulate_grad_batches": 2,
        "trainer.log_every_n_steps": 1,
        "model.parts": {"language_model": {"mode": "lora", "rank": 4}, "aligner": {"mode": "full"}},
        "model.lr": 0.001,
        "model.warmup_steps": 3,
        "model.lora_dropout": 0.1,
        "model.lora_variant": "dora",
        "model.max_new_tokens": 4,
    } | data(
        "MixtureDataModule",
        sources={
            "own": own,
            "charts": source("ChartsDataModule", **charts),
            "tables": source("ScenesDataModule", **tables),
        },
        shares={"own": 1, "charts": 2, "tables": 1},
        text_only=["tables"],
        with_replacement=["own"],
        length_grouped=True,
        loss_weights={"own": 0.5},
        modality_weights={"text": 0.75},
        batch_size=4,
        pack_tokens=512,
        num_workers=1,
    )
    work.run("fit", *options(keys))
    return run_values(work, "runs/mixture")


OWN_DATA = {"train": "inputs/own_data/train.jsonl", "test": "inputs/own_data/test.jsonl"}


def siglip(work: Workplace) -> Values:
    """The family without SAM, in the original layout, fully trained on a stream of rows."""
    streamed = data(
        "InstructDataModule",
        **OWN_DATA,
        validation="inputs/own_data/test.jsonl",
        streaming=True,
        batch_size=2,
    )
    keys = {
        "run_name": "siglip",
        "best_by": "last",
        "trainer.max_steps": 8,
        "trainer.val_check_interval": 4,
        "trainer.log_every_n_steps": 1,
        "model.checkpoint": "inputs/siglip",
        "model.preset": "full",
        "model.lr": 0.001,
        "model.max_new_tokens": 4,
        "model.gradient_checkpointing": True,
    }
    work.run("fit", *options(keys | streamed))
    return run_values(work, "runs/siglip")


def features(work: Workplace) -> Values:
    """Training on stored features of the frozen towers, in bfloat16, and what is stored."""
    values = short_charts(work, "features", 10, {"model.feature_store": "features"})
    stored = [weights(path) for path in (work.folder / "features").rglob("*.safetensors")]
    return values | {"stored": sorted(kept for one in stored for kept in one.values())}


def convert(work: Workplace) -> Values:
    """A hybrid and a SigLIP checkpoint to transformers' layout and back."""
    values: Values = {}
    for family in ("hybrid", "siglip"):
        there, back = f"{family}_transformers", f"{family}_original"
        work.run("convert", f"inputs/{family}", there, "--to", "transformers")
        work.run("convert", there, back, "--to", "original")
        values |= checkpoint_folder(work, there) | checkpoint_folder(work, back)
    return values


def init(work: Workplace) -> Values:
    """The untrained small checkpoint."""
    work.run("init", "untrained", "--seed", "3")
    return checkpoint_folder(work, "untrained")


def preview(work: Workplace) -> Values:
    """Token ids, positions, supervised flags, texts and pictures of the pages of two recipes."""
    own = options(data("InstructDataModule", **OWN_DATA, validation_rows=0))
    work.run("preview", "--config", "charts_lora", *own, "--rows", "15", "--out", "own.html")
    work.run("preview", "--config", "charts_lora", "--rows", "3", "--out", "charts.html")
    values: Values = {}
    for name in ("own", "charts"):
        page = PreviewPage((work.folder / f"{name}.html").read_text(encoding="utf-8")).values
        if not page["ids"] or not page["pictures"] or not any(page["learnt"]):
            raise Failure(f"{name}.html: no tokens found. Adapt PREVIEW_TITLE and PREVIEW_LEARNT.")
        values |= under(name, page)
    return values


def predict(work: Workplace) -> Values:
    """Answers of the tuned model on charts, and of both original checkpoints on given rows."""
    work.once("charts_lora")
    run = ["--config", "runs/charts_lora/config.yaml", "--ckpt_path", "best"]
    run += ["--out", "charts.jsonl"]
    work.run("predict", *run, *options({"data.init_args.test_charts": 3}))
    values = under("charts", answers(work.folder / "charts.jsonl"))
    for family in ("hybrid", "siglip"):
        keys = {"model.checkpoint": f"inputs/{family}", "model.max_new_tokens": 6}
        own = options(keys | data("InstructDataModule", **OWN_DATA, validation_rows=0))
        work.run("predict", *own, "--out", f"{family}.jsonl")
        values |= under(family, answers(work.folder / f"{family}.jsonl"))
    return values


def chat(work: Workplace) -> Values:
    """One answer, greedy and drawn."""
    asked = ["--image", "inputs/chart.png", "--prompt", "What is the value of the red bar?"]
    settings = ["chat", "--model", "inputs/hybrid", *asked, "--max_new_tokens", "24"]
    drawn = ["--temperature", "0.8", "--seed", "5"]
    return {"greedy": work.run(*settings).strip(), "drawn": work.run(*settings, *drawn).strip()}


BAD_ROWS = [
    {"question": "What is it?", "answer": "", "image": "images/plan.png"},
    {"question": "What is it?", "answer": "A plan", "image": "images/nowhere.png"},
    {"question": "What is it?", "answer": "A plan", "image": "images/plan.png"},
    {"messages": [{"role": "nobody", "content": "Hello"}]},
]


def check_data(work: Workplace) -> Values:
    """What `check-data` counts: of good rows, and how many bad ones by kind."""
    good = options(data("InstructDataModule", **OWN_DATA))
    work.run("check-data", "--config", "charts_lora", *good, "--json", "good.json")
    bad_file = work.folder / "inputs" / "own_data" / "bad.jsonl"
    bad_file.write_text("".join(json.dumps(row) + "\n" for row in BAD_ROWS), encoding="utf-8")
    bad = options(data("InstructDataModule", train=str(bad_file.relative_to(work.folder))))
    work.run("check-data", "--config", "charts_lora", *bad, "--json", "bad.json", codes=(2,))
    values: Values = {}
    for name in ("good", "bad"):
        report = json.loads((work.folder / f"{name}.json").read_text(encoding="utf-8"))
        for split in report[KEYS["splits"]].values():  # the kinds are named in prose
            kinds = split[KEYS["errors"]]
            split[KEYS["errors"]] = sorted(len(messages) for messages in kinds.values())
        values |= under(name, json_values(work, report))
    return values


CASES: dict[str, Callable[[Workplace], Values]] = {
    case.__name__: case
    for case in (
        *(charts_lora, resumed, merge, stages_1_align, stages_2_pretrain, stages_3_sft),
        *(qlora, fsdp2, mixture, siglip, features, convert, init),
        *(preview, predict, chat, check_data),
    )
}

# --- Recording and comparing ---------------------------------------------------------------------


def environment(checkout: Path) -> dict[str, Any]:
    """What the bits depend on besides the code, and which code it was."""
    names = ["torch", "lightning", "transformers", "peft", "tokenizers", "pillow", "numpy"]
    names += ["bitsandbytes"]
    state = ["describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(["git", "-C", checkout, *state], capture_output=True, text=True)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    processor = cpu[1] if cpu else platform.machine()
    inputs = hashlib.sha256()
    for place in INPUTS.values():
        for path in sorted([place, *place.rglob("*")]):
            if path.is_file() and path.suffix not in (".md", ".py"):
                inputs.update(path.read_bytes())
    return {
        "commit": described.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "processor": f"{processor}, {torch.backends.cpu.get_cpu_capability()}",
        "libraries": {name: metadata.version(name) for name in names},
        "inputs": inputs.hexdigest(),
    }


def renamed(values: Values) -> Values:
    """Values under the names of the first recording."""
    names = {}
    for name in values:
        names[name] = name
        for pattern, replacement in RECORDED_NAMES:
            names[name] = re.sub(pattern, replacement, names[name])
    return {names[name]: value for name, value in values.items()}


def run_cases(work: Workplace, chosen: list[str]) -> dict[str, Any]:
    """The values of cases, and the seconds that each took: of a clock, and of the processors."""
    cases = {}
    for name in chosen:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        try:
            values = renamed(work.once(name))
        except Failure as failure:
            print(f"{name:<18} failed: {failure}", flush=True)
            continue
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cases[name] = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "values": json.loads(json.dumps(values)),
        }
        count = f"{len(values):>6,} values"
        print(f"{name:<18} {count} {seconds:>7.1f} s {cpu:>7.1f} s of CPU", flush=True)
        if apart := values.get(APART):
            print(f"  not what the straight run gave: {', '.join(apart[:5])}", flush=True)
    return cases


def shown(value: Any) -> str:
    """A value, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 90 else f"{text[:60]} ... {text[-25:]}"


def difference(before: Any, after: Any) -> str:
    """Two values, of lists the first place at which they differ."""
    if isinstance(before, list) and isinstance(after, list):
        for place, (one, other) in enumerate(zip(before, after, strict=False)):
            if json.dumps(one) != json.dumps(other):
                return f"[{place}] {shown(one)} -> {shown(other)}"
        return f"{len(before)} -> {len(after)} entries"
    return f"{shown(before)} -> {shown(after)}"


def differing(before: Values, after: Values) -> list[str]:
    """A line on each value that is another one, gone or new; NaN equals NaN."""
    text = {name: json.dumps(value) for name, value in before.items()}
    other = {name: json.dumps(value) for name, value in after.items()}
    new = {other[name]: name for name in after if name not in before}
    lines = [
        f"{name}: {difference(before[name], after[name])}"
        for name in before
        if name in after and text[name] != other[name]
    ]
    for name in before:
        if name not in after:
            hint = f"; {new[text[name]]!r} has its value" if text[name] in new else ""
            lines.append(f"{name}: is gone{hint}")
    return lines + [f"{name}: is new" for name in after if name not in before]


def compare(recorded: dict[str, Any], now: dict[str, Any], most: int, left_out: list[str]) -> bool:
    """Print what differs between two recordings, case by case; whether nothing does.

    Args:
        recorded: the older one.
        now: of the cases that were asked for and did not fail.
        most: differences shown of a case.
        left_out: patterns of the names of values that may be other ones.
    """
    for key, value in recorded["environment"].items():
        if key != "commit" and value != now["environment"][key]:
            print(f"warning: another {key}: {difference(value, now['environment'][key])}")
    print(f"\n{recorded['environment']['commit']} -> {now['environment']['commit']}")
    equal, meant = True, re.compile("|".join(left_out) or "(?!)")
    for name, case in now["cases"].items():
        if name not in recorded["cases"]:
            print(f"{name:<18} not recorded")
            equal = False
            continue
        values, others = (
            {key: value for key, value in all_of.items() if not meant.search(key)}
            for all_of in (recorded["cases"][name]["values"], case["values"])
        )
        lines = differing(values, others)
        equal = equal and not lines
        verdict = f"different: {len(lines):,} of" if lines else "equal:"
        print(f"{name:<18} {verdict} {len(values):,} values")
        print("".join(f"    {line}\n" for line in lines[:most]), end="")
        if len(lines) > most:
            print(f"    and {len(lines) - most:,} more")
    return equal


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("record", "compare"):
        one = verbs.add_parser(verb)
        one.add_argument("--checkout", type=Path, required=True, help="whose bits")
        one.add_argument("--only", action="append", choices=CASES, help="a case; may be repeated")
        one.add_argument(
            "--work", type=Path, help="new folder to work in and keep (default: a temporary one)"
        )
        one.add_argument(
            "--through", default="", help='put before every command, e.g. "flock /tmp/lock"'
        )
        if verb == "compare":
            one.add_argument("--against", type=Path, required=True, help="recording to hold it to")
            one.add_argument(
                "--except",
                dest="left_out",
                action="append",
                default=[],
                metavar="PATTERN",
                help="names of values not to compare; may be repeated",
            )
            one.add_argument("--most", type=int, default=10, help="differences shown of a case")
        one.add_argument(
            "--out", type=Path, required=verb == "record", help="file of the recording"
        )
    return parser.parse_args()


def main() -> None:
    """Record, or record and compare."""
    given = parse()
    recorded = json.loads(given.against.read_text("utf-8")) if given.verb == "compare" else None
    chosen = given.only or list(CASES)
    with tempfile.TemporaryDirectory(prefix="bits-") as temporary:
        root = (given.work or Path(temporary)).resolve()
        work = Workplace(given.checkout.resolve(), root, shlex.split(given.through))
        now = {"environment": environment(work.checkout), "cases": run_cases(work, chosen)}
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(now, indent=1, ensure_ascii=False)
        given.out.write_text(f"{text}\n", encoding="utf-8")
    good = [not case["values"].get(APART) for case in now["cases"].values()]
    equal = recorded is None or compare(recorded, now, given.most, given.left_out)
    sys.exit(0 if equal and all(good) and len(good) == len(chosen) else 1)


if __name__ == "__main__":
    main()
