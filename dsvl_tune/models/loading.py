"""From a checkpoint's name to its folder, and from its folder to a model whose every weight came from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from transformers import (
    AutoConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridForConditionalGeneration,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from dsvl_tune.models.original import original_config, read_converted, read_shapes
from dsvl_tune.models.tokenizer import IMAGE_TOKEN, load_tokenizer, special_ids
from dsvl_tune.schema import UserError

EMBEDDED = Path(__file__).parent / "embedded"
CLASSES = {
    "deepseek_vl": DeepseekVLForConditionalGeneration,
    "deepseek_vl_hybrid": DeepseekVLHybridForConditionalGeneration,
}
MODEL_TYPES = tuple(CLASSES)
ORIGINAL = "multi_modality"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


def resolve_checkpoint(name: str) -> Path:
    """Folder of a checkpoint.

    Args:
        name: "embedded" (the small trained model inside the package), a local folder, or a name on the Hugging Face
            hub, whose files are then downloaded (safetensors and JSON only). No network is touched for a folder.

    Raises:
        UserError: neither a folder nor a name that the hub answers to.
    """
    if name == "embedded":
        return EMBEDDED
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UserError(
            f"checkpoint {name!r}: no such folder. Expected 'embedded', a folder with config.json and safetensors, "
            "or a hub name such as deepseek-ai/deepseek-vl-1.3b-chat."
        )
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "LICENSE*", "*.md"]))
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"checkpoint {name!r}: no such folder here, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Check the name and the network, or download it "
            "and give its folder."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no {path.name} there. Is it a checkpoint folder?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    return content


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file that holds it, read from the files' headers without loading a tensor.

    Raises:
        UserError: no safetensors in the folder, or a shard that the index names is missing.
    """
    if (folder / WEIGHTS_INDEX).is_file():
        shards = sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
    else:
        shards = [WEIGHTS]
    names: dict[str, Path] = {}
    for shard in shards:
        path = folder / shard
        if not path.is_file():
            raise UserError(f"{folder}: no {shard} there. Weights are read from safetensors files only.")
        with safe_open(path, framework="pt") as file:
            names.update(dict.fromkeys(file.keys(), path))
    return names


def is_original(folder: Path) -> bool:
    """Whether a checkpoint is in the original layout."""
    return read_json(folder / "config.json").get("model_type") == ORIGINAL


def read_config(folder: Path) -> PretrainedConfig:
    """The checkpoint's configuration, with the tie flag as its files have it and the tokenizer's special ids.

    transformers' default ties lm_head to the embeddings, while every published DeepSeek-VL is untied; a file that
    holds its own `lm_head.weight` says so whatever the flag is. The published configs leave out bos, eos and pad;
    Llama's defaults (1, 2, none) would never stop a DeepSeek-VL.

    Raises:
        UserError: not a DeepSeek-VL checkpoint, in neither layout.
    """
    content = read_json(folder / "config.json")
    if content.get("model_type") not in (*MODEL_TYPES, ORIGINAL):
        raise UserError(
            f"{folder}/config.json: model_type is {content.get('model_type')!r}, expected one of "
            f"{', '.join((*MODEL_TYPES, ORIGINAL))}. Give a DeepSeek-VL checkpoint."
        )
    tokenizer = load_tokenizer(folder)
    if is_original(folder):
        shapes = read_shapes(weight_files(folder))
        config = original_config(content, shapes, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    else:
        config = AutoConfig.from_pretrained(folder)
        config.tie_word_embeddings = "lm_head.weight" not in weight_files(folder)
    for name, value in special_ids(tokenizer).items():
        setattr(config.text_config, name, value)
    return config


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The complete model in `dtype` on the CPU, in eval mode, no gradient switched off yet; from either layout.

    Raises:
        UserError: a weight is missing, left over or of another shape.
    """
    config = read_config(folder)
    source: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    if is_original(folder):
        source = {"pretrained_model_name_or_path": None, "state_dict": read_converted(weight_files(folder))}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would warn of is raised below
    try:
        model, report = CLASSES[config.model_type].from_pretrained(
            **source, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    wrong = {kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        account = "; ".join(f"{kind}: {len(names)}, e.g. {names[0]}" for kind, names in wrong.items() if names)
        raise UserError(f"{folder}: weights and config.json do not fit together ({account}).")
    model.generation_config = GenerationConfig(**special_ids(load_tokenizer(folder)), do_sample=False)
    return model.eval()
