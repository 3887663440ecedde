"""Kinds of damage: each is a function of a checkpoint folder and a random number generator."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS_INDEX

Damage = Callable[[Path, random.Random], object]


def weight_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("model*.safetensors")))


def on_tensors(change: Callable[[dict[str, Tensor], str, random.Random], object]) -> Damage:
    """A damage to one tensor that is drawn."""

    def damage(folder: Path, rng: random.Random) -> None:
        path = weight_file(folder, rng)
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors, rng.choice(sorted(tensors)), rng)
        save_file(
            {name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"}
        )

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
    tensors[name[:place] + rng.choice("abz09._") + name[place + (rng.random() < 0.5) :] + "_"] = (
        tensors.pop(name)
    )


def reshape(tensors: dict[str, Tensor], name: str, rng: random.Random) -> None:
    tensor = tensors[name]
    tensors[name] = rng.choice(
        [tensor[None], tensor.flatten()[:-1], torch.cat([tensor, tensor]), tensor[:0]]
    )


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
    places[rng.choice(sorted(places))] = rng.choice(
        ["model-00003-of-00003.safetensors", "../model.safetensors"]
    )


def wrong_size(content: dict[str, Any], rng: random.Random) -> None:
    section, key = rng.choice(
        [
            *(
                ("text_config", key)
                for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
            ),
            *(
                ("vision_config", key)
                for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
            ),
            *(("vision_config", key) for key in ("image_size", "patch_size")),
        ]
    )
    content[section][key] = rng.choice([content[section][key] * 2, 1, 0, -1, "many", None])


def other_tower(content: dict[str, Any], rng: random.Random) -> None:
    tower = content["vision_config"]["params"]
    changes = [
        ("model_name", "clip_large"),
        ("width", 128),
        ("layers", 24),
        ("image_size", 336),
        ("width", "wide"),
    ]
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
    "tensor extra": on_tensors(
        lambda tensors, name, rng: tensors.update({f"{name}.more": tensors[name].clone()})
    ),
    "tensor of another shape": on_tensors(reshape),
    "tensor of integers": on_tensors(
        lambda tensors, name, rng: tensors.update({name: tensors[name].to(torch.int8)})
    ),
    "value not a number": on_tensors(poison(float("nan"))),
    "value infinite": on_tensors(poison(float("-inf"))),
    "bit flipped in the header": flip_in_header,
    "weights truncated": lambda folder, rng: truncate(weight_file(folder, rng), rng),
    "weights missing": lambda folder, rng: weight_file(folder, rng).unlink(),
    "weights pickled": as_pickle,
    "config truncated": lambda folder, rng: truncate(folder / "config.json", rng),
    "config of another model": on_json(
        "config.json", lambda content, rng: content.update(model_type="llava")
    ),
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
    "image settings truncated": lambda folder, rng: truncate(
        folder / "preprocessor_config.json", rng
    ),
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
    "side file truncated": lambda folder, rng: truncate(
        folder / "original" / "unused.safetensors", rng
    ),
}
