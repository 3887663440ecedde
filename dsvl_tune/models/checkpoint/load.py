"""From a checkpoint's name to its folder, and from its folder to a model whose every weight came from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers import (
    DeepseekVLConfig,
    DeepseekVLHybridConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

import dsvl_tune
from dsvl_tune.core.checksums import SUMS, check_own_sums
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.weight_headers import ORIGINAL, read_headers, read_json
from dsvl_tune.families.deepseek_vl.config import original_config
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN, load_tokenizer, special_ids
from dsvl_tune.kernels.install import install_kernels
from dsvl_tune.models.checkpoint.weights import CLASSES, Weights
from dsvl_tune.models.finetuning.quantization import (
    OnDemand,
    Quantization,
    check_widths,
    finish_quantization,
    nf4_config,
)

EMBEDDED = Path(dsvl_tune.__file__).parent / "demo" / "embedded"
CONFIGS = {"deepseek_vl": DeepseekVLConfig, "deepseek_vl_hybrid": DeepseekVLHybridConfig}
MODEL_TYPES = (*CLASSES, ORIGINAL)
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "LICENSE*", "*.md", SUMS]


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
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"checkpoint {name!r}: no such folder here, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Check the name and the network, or download it "
            "and give its folder."
        ) from error


def read_config(folder: Path) -> PretrainedConfig:
    """The checkpoint's configuration, with the tie flag as its files have it and the tokenizer's special ids.

    The published configs leave out bos, eos and pad; Llama's defaults (1, 2, none) would never stop a DeepSeek-VL.

    Raises:
        UserError: not a DeepSeek-VL checkpoint, in neither layout.
    """
    content = read_json(folder / "config.json")
    refuse_quantized(folder, content)
    check_own_sums(folder, weights=False)
    if content.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{folder}/config.json: model_type is {content.get('model_type')!r}, expected one of "
            f"{', '.join(MODEL_TYPES)}. Give a DeepSeek-VL checkpoint."
        )
    tokenizer, headers = load_tokenizer(folder), read_headers(folder)
    try:
        if content["model_type"] == ORIGINAL:
            image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
            config = original_config(
                content, {name: h.shape for name, h in headers.items()}, image_token_id
            )
        else:
            config = CONFIGS[content["model_type"]].from_dict(content)
            config.tie_word_embeddings = is_tied(content, set(headers))
    except (KeyError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise UserError(
            f"{folder}/config.json: it does not describe a DeepSeek-VL ({type(error).__name__}: {error})."
        ) from error
    for name, value in special_ids(tokenizer).items():
        setattr(config.text_config, name, value)
    return config


def refuse_quantized(folder: Path, content: dict[str, Any]) -> None:
    """A checkpoint whose weights were quantised has lost what merging and exact loading need.

    Raises:
        UserError: config.json, or a part of it, has a `quantization_config`.
    """
    places = {
        "": content,
        **{f"{name}.": part for name, part in content.items() if isinstance(part, dict)},
    }
    for place, settings in places.items():
        if settings.get("quantization_config"):
            raise UserError(
                f"{folder}/config.json: {place}quantization_config says that these weights are quantised; expected "
                "float32, bfloat16 or float16. Give the checkpoint that they were made from; to train on a 4-bit "
                "base, add --model.quantization nf4 to it."
            )


def is_tied(content: dict[str, Any], names: set[str]) -> bool:
    """Whether lm_head shares the embeddings' tensor: only where config.json says so and the files hold no lm_head.

    transformers' default is tied, while every published DeepSeek-VL is not. Files that hold their own `lm_head.weight`
    are not tied whatever the flag is, and a file that lost it must not become tied by default.
    """
    return content.get("tie_word_embeddings") is True and "lm_head.weight" not in names


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, quantization: Quantization | None = None
) -> PreTrainedModel:
    """The complete model in `dtype` on the CPU, in eval mode, no gradient switched off yet; from either layout.

    Args:
        folder: of the checkpoint. dtype: of what is not quantised.
        quantization: of the language model's linear layers, each as its weights are read.

    Raises:
        UserError: a weight is missing, left over, of another shape or not finite, or a file is not what SHA256SUMS
            says.
    """
    config = read_config(folder)
    weights = Weights(folder, config)
    state: dict[str, Any]
    if quantization is None:
        state, how = {name: weights.read(name).to(dtype) for name in weights.pairs}, {}
    else:
        check_widths(weights)
        state = {name: OnDemand(weights, name) for name in weights.pairs}
        how = {"quantization_config": nf4_config(dtype), "device_map": "cpu"}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would warn of was raised above
    try:
        model, report = CLASSES[config.model_type].from_pretrained(
            None, state_dict=state, config=config, dtype=dtype, output_loading_info=True, **how
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    assert not any(report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")), (
        report
    )
    if quantization is not None:
        finish_quantization(model)
    return finish_model(model, folder).eval()


def finish_model(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model, told its folder and that answers are greedy up to the tokenizer's end token, with our kernels."""
    model.name_or_path = str(folder)
    model.generation_config = GenerationConfig(
        **special_ids(load_tokenizer(folder)), do_sample=False
    )
    install_kernels(model)
    return model
