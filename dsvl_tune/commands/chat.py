"""`dsvl-tune chat`: ask a model about images, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from transformers import PreTrainedModel, TextStreamer

from dsvl_tune.data.collate import collate_prompts
from dsvl_tune.data.encode import encode_prompt
from dsvl_tune.models.adapters import load_trained
from dsvl_tune.models.loading import load_model, resolve_checkpoint
from dsvl_tune.models.processor import load_processor
from dsvl_tune.schema import Conversation, ImageRef, Processor, Prompts, Turn
from dsvl_tune.training.loss import encode_images


def chat(
    model: str,
    image: Path | list[Path] | None = None,
    prompt: str | None = None,
    adapter: Path | None = None,
    system: str | None = None,
    max_new_tokens: int = 512,
    dtype: str = "auto",
) -> None:
    """Answer about images: once with --prompt, else as a conversation.

    In a conversation every line is a question and the images belong to the first; an empty line or Ctrl-D ends it.
    Answers are greedy and appear token by token.

    Args:
        model: checkpoint: a folder (merged or base), a hub name, or "embedded".
        image: picture shown before the first question; several as '[a.png, b.png]'.
        prompt: the question; leave it out to talk.
        adapter: a run's adapter folder, put onto the model.
        system: system prompt; default: the checkpoint's own, "" for none.
        max_new_tokens: longest answer.
        dtype: float32, bfloat16, float16; auto is float32 on a CPU and bfloat16 on a GPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    folder = resolve_checkpoint(model)
    processor = load_processor(folder)
    network = load_model(folder, getattr(torch, dtype))
    if adapter is not None:
        load_trained(network, adapter)
    network.to(device).eval()
    paths = image if isinstance(image, list) else [image] if image else []
    pictures = tuple(ImageRef(path, str(path)) for path in paths)
    turns: list[Turn] = []
    while question := (prompt or ask()):
        turns.append(Turn("user", (*(pictures if not turns else ()), question)))
        conversation = Conversation(tuple(turns), origin="--prompt" if prompt else "conversation", system=system)
        answer = reply(network, processor, conversation, max_new_tokens)
        if prompt:
            return
        turns.append(Turn("assistant", (answer,)))


def ask() -> str:
    """The next question from the terminal, "" at the end."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


@torch.no_grad()
def reply(network: PreTrainedModel, processor: Processor, conversation: Conversation, max_new_tokens: int) -> str:
    """Print the answer as it is made, and give it back."""
    prompts = collate_prompts([encode_prompt(conversation, processor)], processor.pad_id)
    prompts = to_device(prompts, network)
    images = encode_images(network, prompts)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = network.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        streamer=streamer,
        **({"mm_encoder_outputs": images} if images else {}),
    )
    answer: str = processor.tokenizer.decode(ids[0, prompts.input_ids.shape[1] :], skip_special_tokens=True)
    return answer.strip()


def to_device(prompts: Prompts, network: PreTrainedModel) -> Prompts:
    """Tensors on the model's device, pixels in its dtype."""
    fields: dict[str, Any] = dict(vars(prompts))
    for name, value in fields.items():
        if isinstance(value, torch.Tensor):
            fields[name] = value.to(network.device, network.dtype if value.is_floating_point() else value.dtype)
    return Prompts(**fields)


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    auto_cli(chat, args=arguments[1:], prog="dsvl-tune chat", as_positional=False)
