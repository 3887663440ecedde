"""A checkpoint damaged in a few hundred ways is refused each time: exit code 2, one message, no traceback, no target.

One kind of damage is left out, because nobody can see it: other finite values in a checkpoint that brings no hashes.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsvl_tune.cli import main
from dsvl_tune.models.checksums import SUMS, write_sums
from dsvl_tune.models.headers import WEIGHTS_INDEX
from dsvl_tune.models.loading import read_config
from dsvl_tune.models.merging import merge_into
from dsvl_tune.models.weights import Weights

GOLDEN = Path(__file__).parents[1] / "golden"
SEEDS = range(6)
Damage = Callable[[Path, random.Random], object]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole checkpoints without hashes: the original layout in one file, transformers' in two, and one with hashes."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(GOLDEN / "siglip" / "checkpoint", root / "original")
    weights = Weights(root / "original", read_config(root / "original"))
    for name in ("transformers", "hashed"):
        (root / name).mkdir()
        merge_into(weights, {}, root / name, "transformers", None)
    write_sums(root / "hashed")
    tensors = list(load_file(root / "transformers" / "model.safetensors").items())
    (root / "transformers" / "model.safetensors").unlink()
    places = {}
    for number in (1, 2):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file(dict(tensors[number - 1 :: 2]), root / "transformers" / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(dict(tensors[number - 1 :: 2]), shard)
    (root / "transformers" / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return {path.name: path for path in root.iterdir()}


def convert(source: Path, target: Path, patch: pytest.MonkeyPatch) -> int:
    """The exit code of the command."""
    patch.setattr(sys, "argv", ["dsvl-tune", "convert", str(source), str(target), "--to", "original"])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def weight_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("model*.safetensors")))


def on_tensors(change: Callable[[dict[str, Tensor], str, random.Random], object]) -> Damage:
    """A damage to one tensor that is drawn."""

    def damage(folder: Path, rng: random.Random) -> None:
        path = weight_file(folder, rng)
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors, rng.choice(sorted(tensors)), rng)
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})

    return damage


def on_json(file: str, change: Callable[[dict[str, Any], random.Random], object]) -> Damage:
    def damage(folder: Path, rng: random.Random) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        change(content, rng)
        (folder / file).write_text(json.dumps(content), encoding="utf-8")

    return damage


def poison(value: float) -> Callable[[dict[str, Tensor], str, random.Random], object]:
    def change(tensors: dict[str, Tensor], name: str, rng: random.Random) -> None:
        flat = tensors[name].view(-1)
        flat[rng.randrange(flat.numel())] = value

    return change


def rename(tensors: dict[str, Tensor], name: str, rng: random.Random) -> None:
    place = rng.randrange(len(name))
    tensors[name[:place] + rng.choice("abz09._") + name[place + (rng.random() < 0.5) :] + "_"] = tensors.pop(name)


def reshape(tensors: dict[str, Tensor], name: str, rng: random.Random) -> None:
    tensor = tensors[name]
    tensors[name] = rng.choice([tensor[None], tensor.flatten()[:-1], torch.cat([tensor, tensor]), tensor[:0]])


def flip(path: Path, start: int, end: int, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def flip_in_header(folder: Path, rng: random.Random) -> None:
    """Anywhere in length and header but the metadata, which no reader uses."""
    path = weight_file(folder, rng)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    metadata = path.read_bytes().index(b'{"format":"pt"}')
    spans = [(0, metadata - len('"__metadata__":')), (metadata + len('{"format":"pt"}'), header)]
    flip(path, *rng.choice([span for span in spans if span[0] < span[1]]), rng)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def as_pickle(folder: Path, rng: random.Random) -> None:
    """Saved by torch.save or bare pickle under the safetensors name, or under its own."""
    path = weight_file(folder, rng)
    content = load_file(path)
    path.unlink()
    target = rng.choice([path, folder / "pytorch_model.bin"])
    if rng.random() < 0.5:
        torch.save(content, target)
    else:
        target.write_bytes(pickle.dumps({"a": 1}))


def other_shard(content: dict[str, Any], rng: random.Random) -> None:
    places = content["weight_map"]
    name = rng.choice(sorted(places))
    places[name] = rng.choice([place for place in set(places.values()) if place != places[name]])


def lose(content: dict[str, Any], rng: random.Random) -> None:
    del content["weight_map"][rng.choice(sorted(content["weight_map"]))]


def name_absent_file(content: dict[str, Any], rng: random.Random) -> None:
    places = content["weight_map"]
    places[rng.choice(sorted(places))] = rng.choice(["model-00003-of-00003.safetensors", "../model.safetensors"])


def wrong_size(content: dict[str, Any], rng: random.Random) -> None:
    section, key = rng.choice(
        [
            *(("text_config", key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")),
            *(("vision_config", key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers")),
            *(("vision_config", key) for key in ("image_size", "patch_size")),
        ]
    )
    content[section][key] = rng.choice([content[section][key] * 2, 1, 0, -1, "many", None])


def other_tower(content: dict[str, Any], rng: random.Random) -> None:
    tower = content["vision_config"]["params"]
    changes = [("model_name", "clip_large"), ("width", 128), ("layers", 24), ("image_size", 336), ("width", "wide")]
    key, value = rng.choice(changes)
    if key == "model_name":
        for size in ("width", "layers", "heads"):
            del tower[size]
        value = rng.choice([value, "siglip_so400m_patch14_384", "siglip_large_patch16_384"])
    tower[key] = value


def other_projector(content: dict[str, Any], rng: random.Random) -> None:
    params = content["aligner_config"]["params"]
    key = rng.choice(["projector_type", "depth"])
    other = rng.choice(["linear", "identity", "low_high_hybrid_split_mlp_gelu"])
    params[key] = {"projector_type": other, "depth": 3}[key]


def drop_key(content: dict[str, Any], rng: random.Random) -> None:
    del content[rng.choice(["vision_config", "aligner_config", "language_config", "model_type"])]


EVERYWHERE: dict[str, Damage] = {
    "tensor missing": on_tensors(lambda tensors, name, rng: tensors.pop(name)),
    "tensor renamed": on_tensors(rename),
    "tensor extra": on_tensors(lambda tensors, name, rng: tensors.update({f"{name}.more": tensors[name].clone()})),
    "tensor of another shape": on_tensors(reshape),
    "tensor of integers": on_tensors(lambda tensors, name, rng: tensors.update({name: tensors[name].to(torch.int8)})),
    "value not a number": on_tensors(poison(float("nan"))),
    "value infinite": on_tensors(poison(float("-inf"))),
    "bit flipped in the header": flip_in_header,
    "weights truncated": lambda folder, rng: truncate(weight_file(folder, rng), rng),
    "weights missing": lambda folder, rng: weight_file(folder, rng).unlink(),
    "weights pickled": as_pickle,
    "config truncated": lambda folder, rng: truncate(folder / "config.json", rng),
    "config of another model": on_json("config.json", lambda content, rng: content.update(model_type="llava")),
    "config of the hybrid family": on_json(
        "config.json",
        lambda content, rng: (
            content["vision_config"].update(params={"high_res_cfg": {}, "low_res_cfg": {}})
            if content["model_type"] == "multi_modality"
            else content.update(model_type="deepseek_vl_hybrid")
        ),
    ),
    "tokenizer truncated": lambda folder, rng: truncate(folder / "tokenizer.json", rng),
    "tokenizer missing": lambda folder, rng: (folder / "tokenizer.json").unlink(),
    "image settings truncated": lambda folder, rng: truncate(folder / "preprocessor_config.json", rng),
}
ORIGINAL: dict[str, Damage] = {
    "config of another tower": on_json("config.json", other_tower),
    "config of another projector": on_json("config.json", other_projector),
    "config lacks a section": on_json("config.json", drop_key),
}
TRANSFORMERS: dict[str, Damage] = {
    "config of other sizes": on_json("config.json", wrong_size),
    "index misplaces a tensor": on_json(WEIGHTS_INDEX, other_shard),
    "index loses a tensor": on_json(WEIGHTS_INDEX, lose),
    "index names an absent file": on_json(WEIGHTS_INDEX, name_absent_file),
    "index truncated": lambda folder, rng: truncate(folder / WEIGHTS_INDEX, rng),
    "side file truncated": lambda folder, rng: truncate(folder / "original" / "unused.safetensors", rng),
}
CASES = [
    *(("original", name, damage) for name, damage in {**EVERYWHERE, **ORIGINAL}.items()),
    *(("transformers", name, damage) for name, damage in {**EVERYWHERE, **TRANSFORMERS}.items()),
]


def assert_refused(folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, case: str) -> None:
    target = folder.parent / "target"
    capsys.readouterr()
    assert convert(folder, target, patch) == 2, f"{case}: silent success"
    error = capsys.readouterr().err
    assert "Traceback" not in error and "dsvl-tune: error: " in error, case
    assert not target.exists() and not target.with_name(".target.partial").exists(), case


@pytest.mark.parametrize(("form", "name", "damage"), CASES, ids=[f"{form}: {name}" for form, name, _ in CASES])
def test_damage_is_refused(
    form: str,
    name: str,
    damage: Damage,
    originals: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in SEEDS:
        folder = Path(shutil.copytree(originals[form], tmp_path / "copy"))
        damage(folder, random.Random(f"{name} {seed}"))
        assert_refused(folder, capsys, monkeypatch, f"{form}, {name}, seed {seed}")
        shutil.rmtree(folder)


def test_any_flipped_bit_in_what_we_wrote_is_found(
    originals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(path.relative_to(originals["hashed"]) for path in originals["hashed"].rglob("*") if path.is_file())
    assert Path(SUMS) in files
    for seed, file in enumerate([*files, *[Path("model.safetensors")] * 20, *[Path(SUMS)] * 20]):
        folder = Path(shutil.copytree(originals["hashed"], tmp_path / "copy"))
        flip(folder / file, 0, (folder / file).stat().st_size, random.Random(seed))
        assert_refused(folder, capsys, monkeypatch, f"{file}, seed {seed}")
        shutil.rmtree(folder)


def test_undamaged_ones_are_not_refused(
    originals: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form, folder in originals.items():
        assert convert(folder, tmp_path / form, monkeypatch) == 0
