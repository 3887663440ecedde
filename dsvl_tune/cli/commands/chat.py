"""`dsvl-tune chat`: ask a model about images, in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli
from jsonargparse.typing import PositiveInt
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TextStreamer

from dsvl_tune.cli.command_parser import CommandParser
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef, Processor, Prompts, Turn
from dsvl_tune.data.encoding.collate import collate_prompts
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.data.formats.messages import Message, fill_placeholders, split_placeholders
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.evaluation.generate import Sampling, generate_ids
from dsvl_tune.families.deepseek_vl.processor import load_processor
from dsvl_tune.models.checkpoint.load import load_model, resolve_checkpoint
from dsvl_tune.models.finetuning.adapters import load_trained

IMAGE_COMMAND = "/image"
DType = Literal["auto", "float32", "bfloat16", "float16"]


def chat(
    model: str,
    image: Path | list[Path] | None = None,
    prompt: str | None = None,
    adapter: Path | None = None,
    system: str | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int = 1,
    max_new_tokens: PositiveInt = 512,
    dtype: DType = "auto",
) -> None:
    """Answer about images: once with --prompt, else as a conversation.

    Args:
        model: base checkpoint: a folder (merged or not), a hub name, or "embedded".
        image: picture shown with the first question, before its text or at its <image>; several
            as --image+ a.png --image+ b.png.
        prompt: the question. Without it a conversation begins: a line is a question, a line
            "/image PATH" shows a picture with the next question, an empty line ends it.
        adapter: adapter folder of a run, applied to the model.
        system: system prompt; default: the checkpoint's own, "" for none.
        temperature: 0 takes the most likely token each time; above 0 samples tokens (the official
            demo: 0.2).
        top_p: total probability of the tokens to sample from (default: 0.95, as in the official
            demo).
        repetition_penalty: for tokens that the answer has already; 1 for none (default: 1.1, as in
            the official demo).
        seed: of sampling.
        max_new_tokens: longest answer.
        dtype: of the weights; auto is float32 on a CPU and bfloat16 on a GPU.
    """
    sampling = read_sampling(temperature, top_p, repetition_penalty)
    paths = image if isinstance(image, list) else [image] if image else []
    pictures = [show(path, "--image") for path in paths]
    network, processor = load(model, adapter, dtype)
    talk = Talk(network, processor, system, sampling, max_new_tokens, pictures)
    torch.manual_seed(seed)
    if prompt is not None:
        talk.ask(prompt, "--prompt")
    else:
        converse(talk)


def read_sampling(
    temperature: float, top_p: float | None, repetition_penalty: float | None
) -> Sampling | None:
    """How to sample; None for the most likely token each time.

    Args:
        temperature: as in `chat`.
        top_p: as in `chat`.
        repetition_penalty: as in `chat`.

    Raises:
        UserError: a value out of its range, or one that has no effect on greedy answers.
    """
    given = {"top_p": top_p, "repetition_penalty": repetition_penalty}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if temperature == 0:
        for name, value in settings.items():
            raise UserError(
                f"--{name} {value}: of no effect on greedy answers. Sample: --temperature 0.2."
            )
        return None
    sampling = Sampling(temperature, **settings)
    if temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.repetition_penalty <= 0:
        raise UserError(
            f"--temperature {temperature}, --top_p {sampling.top_p}, --repetition_penalty "
            f"{sampling.repetition_penalty}: expected at least 0, above 0 and at most 1, and "
            "above 0."
        )
    return sampling


def load(model: str, adapter: Path | None, dtype: DType) -> tuple[PreTrainedModel, Processor]:
    """Network, in eval mode and on the GPU if there is one, and processor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    folder = resolve_checkpoint(model)
    network = load_model(folder, getattr(torch, dtype))
    if adapter is not None:
        load_trained(network, adapter)
    return network.to(device).eval(), load_processor(folder)


def show(path: Path, source: str) -> ImageRef:
    """A picture to be shown, checked to be one.

    Args:
        path: of the picture.
        source: where it was named, for the error.

    Raises:
        UserError: as `load_image`.
    """
    ref = ImageRef(path.expanduser(), str(path.expanduser().resolve()))
    load_image(ref, source)
    return ref


def place(pictures: list[ImageRef], question: str, source: str) -> tuple[str | ImageRef, ...]:
    """The parts of a question: pictures where it has `<image>`, before the text if it has none.

    Args:
        pictures: shown with the question.
        question: its text.
        source: for the error.

    Raises:
        UserError: another number of placeholders than of pictures.
    """
    parts = split_placeholders(question)
    if len(parts) == 1:
        return (*pictures, question)
    fill_placeholders([Message("user", parts)], pictures, source)
    return tuple(part for part in parts if part is not None)


def converse(talk: Talk) -> None:
    """Handle one line after the other; an error is printed, and the conversation continues."""
    for line in lines():
        try:
            talk.handle(line)
        except UserError as error:
            print(error, file=sys.stderr)


def lines() -> Iterator[str]:
    """Typed lines, until an empty one or the end of input."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


@dataclass
class Talk:
    """A conversation with the model. A question that cannot be asked leaves it as it was.

    Attributes:
        network: in eval mode.
        processor: of its checkpoint.
        system: system prompt; None takes the checkpoint's.
        sampling: how to sample; None takes the most likely token each time.
        max_new_tokens: longest answer.
        pictures: shown with the next question.
        turns: questions and answers so far.
        loader: of the pictures, each of which is loaded once.
    """

    network: PreTrainedModel
    processor: Processor
    system: str | None
    sampling: Sampling | None
    max_new_tokens: int
    pictures: list[ImageRef]
    turns: tuple[Turn, ...] = ()
    loader: ImageLoader = field(default_factory=ImageLoader)

    def handle(self, line: str) -> None:
        """Take a picture, or answer a question."""
        command, _, path = line.partition(" ")
        if command == IMAGE_COMMAND:
            self.pictures.append(show(Path(path.strip()), IMAGE_COMMAND))
        else:
            self.ask(line, "conversation")

    def ask(self, question: str, source: str) -> None:
        """Print the answer while it is generated, and keep both."""
        turns = (*self.turns, Turn("user", place(self.pictures, question, source)))
        conversation = Conversation(turns, source, self.system)
        prompt = encode_prompt(conversation, self.processor, loader=self.loader)
        batch = collate_prompts([prompt], self.processor.pad_id)
        tokenizer = self.processor.tokenizer
        ids = generate_ids(
            self.network,
            to_device(batch, self.network, self.processor),
            self.max_new_tokens,
            self.sampling,
            AnswerStreamer(tokenizer),
        )[0]
        if self.processor.eos_id not in ids:
            print(f"(cut off after {len(ids)} tokens: --max_new_tokens)", file=sys.stderr)
        answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if not answer:
            print("(no answer: the question is dropped)", file=sys.stderr)
            return
        self.turns = (*turns, Turn("assistant", (answer,)))
        self.pictures = []


class AnswerStreamer(TextStreamer):
    """Prints an answer word by word, without the space that it begins with."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print new text, and a newline at the end."""
        shown = text if self.begun else text.lstrip()
        self.begun = self.begun or bool(shown)
        print(shown, flush=True, end="\n" if stream_end else "")


def to_device(prompts: Prompts, network: PreTrainedModel, processor: Processor) -> Prompts:
    """Tensors on the model's device, vision inputs normalized and in its dtype."""
    vision_inputs = {
        name: tensor.to(network.device) for name, tensor in prompts.vision_inputs.items()
    }
    vision_inputs = processor.family.normalize(vision_inputs, processor)
    return replace(
        prompts,
        input_ids=prompts.input_ids.to(network.device),
        attention_mask=prompts.attention_mask.to(network.device),
        image_index=prompts.image_index.to(network.device),
        vision_inputs={name: tensor.to(network.dtype) for name, tensor in vision_inputs.items()},
    )


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    auto_cli(
        chat,
        args=arguments[1:],
        prog="dsvl-tune chat",
        as_positional=False,
        parser_class=CommandParser,
    )
