"""Writing a checkpoint in transformers' layout, file by file, from a base in either layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open
from torch import Tensor

from dsvl_tune.files import save_tensors, write_json
from dsvl_tune.models.chat_template import chat_template
from dsvl_tune.models.key_map import to_transformers
from dsvl_tune.models.loading import CLASSES, WEIGHTS_INDEX, is_original, read_config, read_json, weight_files
from dsvl_tune.models.processor import default_system_prompt, read_image_rule
from dsvl_tune.models.tokenizer import load_tokenizer
from dsvl_tune.schema import ImageRule


class ShardWriter:
    """Weight files of one checkpoint; with more than one, the index that transformers reads is written at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[str, str] = {}
        self.total_size_bytes = 0

    def __enter__(self) -> ShardWriter:
        return self

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """One file."""
        save_tensors(self.folder / name, tensors)
        self.shards |= dict.fromkeys(tensors, name)
        self.total_size_bytes += sum(tensor.nbytes for tensor in tensors.values())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and len(set(self.shards.values())) > 1:
            index = {"metadata": {"total_size": self.total_size_bytes}, "weight_map": self.shards}
            write_json(self.folder / WEIGHTS_INDEX, index)


def read_shard(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a weight file of either layout, one after the other, under their names in transformers'."""
    original = is_original(path.parent)
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            tensor = file.get_tensor(name)
            yield from to_transformers(name, tensor) if original else [(name, tensor)]


def write_other_files(base: Path, target: Path, dtype: torch.dtype | None) -> None:
    """Configuration, tokenizer, chat template, image settings and licence beside the weights.

    A base in transformers' layout keeps its own files, with the special ids and the tie flag put right in config.json.

    Args:
        base: where they come from. target: with the weights written. dtype: of the weights; None takes the base's.
    """
    if not is_original(base):
        for path in base.iterdir():
            if path.suffix in (".json", ".jinja", ".txt") and path.name != WEIGHTS_INDEX:
                shutil.copyfile(path, target / path.name)
    else:
        write_processor_files(base, target)
    for path in base.glob("LICENSE*"):
        shutil.copyfile(path, target / path.name)
    config = read_config(base)
    config.architectures = [CLASSES[config.model_type].__name__]
    config.dtype = dtype or first_dtype(target)
    config.save_pretrained(target)


def first_dtype(folder: Path) -> torch.dtype:
    """The dtype of a checkpoint's first tensor."""
    with safe_open(next(iter(weight_files(folder).values())), framework="pt") as file:
        first: Tensor = file.get_tensor(next(iter(file.keys())))
    return first.dtype


def write_processor_files(base: Path, target: Path) -> None:
    """Tokenizer, chat template and image settings of an original checkpoint, as transformers' classes read them."""
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = chat_template(default_system_prompt(tokenizer))
    tokenizer.save_pretrained(target)
    # transformers' processor class asks its tokenizer for the image token by this name
    settings = read_json(target / "tokenizer_config.json")
    write_json(target / "tokenizer_config.json", {**settings, "image_token": "<image_placeholder>"})
    config = read_config(base)
    rule = read_image_rule(base, hybrid=config.model_type == "deepseek_vl_hybrid")
    family = "DeepseekVLHybrid" if rule.high else "DeepseekVL"
    write_json(target / "preprocessor_config.json", image_settings(rule, family))
    image_tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    processor = {"processor_class": f"{family}Processor", "num_image_tokens": image_tokens}
    write_json(target / "processor_config.json", processor)


def image_settings(rule: ImageRule, family: str) -> dict[str, object]:
    """An image rule in the keys of transformers' image processors.

    transformers rounds the short side where the original truncates, so about every second size differs by a pixel row.
    """
    settings: dict[str, object] = {
        "image_processor_type": f"{family}ImageProcessor",
        "processor_class": f"{family}Processor",
        "size": {"height": rule.low.size, "width": rule.low.size},
        "image_mean": list(rule.low.mean),
        "image_std": list(rule.low.std),
        "min_size": rule.min_size,
        "resample": 2 if rule.high else 3,  # the low branch is resized bilinearly from the padded square
    }
    if rule.high is not None:
        settings |= {
            "high_res_size": {"height": rule.high.size, "width": rule.high.size},
            "high_res_image_mean": list(rule.high.mean),
            "high_res_image_std": list(rule.high.std),
            "high_res_resample": 3,
        }
    return settings
