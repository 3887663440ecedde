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
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from dsvl_tune.schema import UserError

EMBEDDED = Path(__file__).parent / "embedded"
MODEL_TYPES = ("deepseek_vl", "deepseek_vl_hybrid")
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
            "or a hub name such as deepseek-community/deepseek-vl-1.3b-chat."
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


def read_config(folder: Path) -> PretrainedConfig:
    """The checkpoint's configuration, with the tie flag as its files have it.

    transformers' default ties lm_head to the embeddings, while every published DeepSeek-VL is untied; a file that
    holds its own `lm_head.weight` says so whatever the flag is.

    Raises:
        UserError: not a DeepSeek-VL checkpoint in transformers' layout.
    """
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type == "multi_modality":
        raise UserError(
            f"{folder}: this is the original DeepSeek-VL layout (model_type multi_modality). Expected transformers' "
            "layout: use the conversion under the deepseek-community name, e.g. deepseek-community/deepseek-vl-7b-chat."
        )
    if model_type not in MODEL_TYPES:
        raise UserError(
            f"{folder}/config.json: model_type is {model_type!r}, expected one of {', '.join(MODEL_TYPES)}. "
            "Give a DeepSeek-VL checkpoint."
        )
    return AutoConfig.from_pretrained(folder)


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The complete model in `dtype` on the CPU, in eval mode, no gradient switched off yet.

    Raises:
        UserError: a weight is missing, left over or of another shape.
    """
    config = read_config(folder)
    config.tie_word_embeddings = "lm_head.weight" not in weight_files(folder)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would warn of is raised below
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    wrong = {kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        account = "; ".join(f"{kind}: {len(names)}, e.g. {names[0]}" for kind, names in wrong.items() if names)
        raise UserError(f"{folder}: weights and config.json do not fit together ({account}).")
    set_end_token(model, folder)
    return model


def set_end_token(model: PreTrainedModel, folder: Path) -> None:
    """Give the model the tokenizer's special ids, so that generation stops.

    The published configs leave out bos, eos and pad; Llama's defaults (1, 2, none) would never stop a DeepSeek-VL.
    """
    from dsvl_tune.models.processor import load_tokenizer

    tokenizer = load_tokenizer(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    for name, value in ids.items():
        setattr(model.config.text_config, name, value)
    model.generation_config = GenerationConfig(**ids, do_sample=False)
