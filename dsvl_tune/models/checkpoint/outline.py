"""A model without weights: its configuration from a few small files, its modules without storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_safetensors_metadata, hf_hub_download
from huggingface_hub.errors import HFValidationError, NotASafetensorsRepoError, StrictDataclassError
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.weight_headers import ORIGINAL, read_headers, read_json
from dsvl_tune.families.deepseek_vl.config import Shapes, original_config
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.models.checkpoint.load import CONFIGS, EMBEDDED, MODEL_TYPES
from dsvl_tune.models.checkpoint.weights import CLASSES


def read_outline(name: str) -> PretrainedConfig:
    """The sizes of a checkpoint; reads config.json, and in the original layout the headers of the weights' files.

    Token ids are not those of the checkpoint: no tokenizer is read.

    Args:
        name: "embedded", a folder (config.json is enough in transformers' layout), or a name on the Hugging Face hub,
            of which then only config.json and the files' headers are fetched, not the weights.

    Raises:
        UserError: no such checkpoint, or not a DeepSeek-VL.
    """
    folder = EMBEDDED if name == "embedded" else Path(name).expanduser()
    on_hub = not folder.is_dir() and name.count("/") == 1 and not name.startswith((".", "~", "/"))
    content, shapes = fetch(name) if on_hub else read(folder)
    kind = content.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{name}/config.json: model_type is {kind!r}, expected one of {', '.join(MODEL_TYPES)}."
        )
    try:
        if kind == ORIGINAL:
            return original_config(content, shapes, image_token_id=0)
        config = CONFIGS[kind].from_dict(content)
    except (KeyError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise UserError(
            f"{name}/config.json: it does not describe a DeepSeek-VL ({type(error).__name__}: {error})."
        ) from error
    config.tie_word_embeddings = content.get("tie_word_embeddings") is True
    return config


def read(folder: Path) -> tuple[dict[str, Any], Shapes]:
    """config.json of a folder, and in the original layout the shape of every tensor."""
    content = read_json(folder / "config.json")
    headers = read_headers(folder) if content.get("model_type") == ORIGINAL else {}
    return content, {name: header.shape for name, header in headers.items()}


def fetch(name: str) -> tuple[dict[str, Any], Shapes]:
    """The same from the hub; of the weights' files their first bytes.

    Raises:
        UserError: the hub does not give them.
    """
    try:
        content = read_json(Path(hf_hub_download(name, "config.json")))
        original = content.get("model_type") == ORIGINAL
        files = get_safetensors_metadata(name).files_metadata.values() if original else ()
    except (OSError, HFValidationError, NotASafetensorsRepoError) as error:
        raise UserError(
            f"checkpoint {name!r}: no such folder here, and the Hugging Face hub did not give its config.json and "
            f"headers ({type(error).__name__}: {str(error).splitlines()[0]}). Give a folder with a config.json."
        ) from error
    return content, {
        tensor: tuple(info.shape) for file in files for tensor, info in file.tensors.items()
    }


def outline_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The complete model on torch's meta device, in training mode."""
    with torch.device("meta"):
        model: PreTrainedModel = CLASSES[config.model_type](config)
    install_kernels(model)
    return model.to(dtype).train()
