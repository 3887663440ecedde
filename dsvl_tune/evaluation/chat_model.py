"""A model that answers questions about images, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from transformers import PreTrainedModel, TextStreamer

from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Conversation, ImageRef, Prompts, Turn
from dsvl_tune.data.encoding.collate import collate_prompts
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.data.formats.messages import Message, fill_placeholders
from dsvl_tune.data.formats.tags import split_placeholders
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.evaluation.generation.generate import Sampling, generate_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import load_trained

DType = Literal["auto", "float32", "bfloat16", "float16"]
ImageInput = str | Path | Image.Image
"""A file, or an image in memory."""


@dataclass(frozen=True)
class Reply:
    """A generated answer.

    Attributes:
        text: The answer, without outer white space.
        complete: Whether it ended by itself and not at the limit of tokens.
        tokens: Number of generated tokens.
    """

    text: str
    complete: bool
    tokens: int


@dataclass
class ChatModel:
    """A model with its processor, ready to answer questions about images.

    Attributes:
        network: The transformers model, in eval mode.
        processor: Processor of its checkpoint.
    """

    network: PreTrainedModel
    processor: Processor
    _loader: ImageLoader = field(default_factory=ImageLoader)

    def answer(
        self,
        question: str,
        images: ImageInput | Sequence[ImageInput] = (),
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        sampling: Sampling | None = None,
    ) -> str:
        """Answer one question.

        Args:
            question: Its text. `<image>` marks the places of images; without any, the images come
                first.
            images: Files or PIL images.
            system: System prompt; None takes the checkpoint's, "" has none.
            max_new_tokens: Length of the longest answer.
            sampling: How to sample tokens, from torch's generator; None is greedy.

        Returns:
            The answer, without outer white space.

        Raises:
            UserError: An image cannot be read, or there are fewer or more `<image>` than images.

        Example:
            >>> model = dsvl_tune.load_model("merged")  # doctest: +SKIP
            >>> model.answer("What is the value of the red bar?", "chart.png")  # doctest: +SKIP
            '45'
        """
        given = [images] if isinstance(images, (str, Path, Image.Image)) else images
        refs = [image_ref(image, "images") for image in given]
        turn = Turn("user", question_parts(question, refs, "question"))
        conversation = Conversation((turn,), "question", system)
        reply = self.reply(conversation, max_new_tokens=max_new_tokens, sampling=sampling)
        return reply.text

    def reply(
        self,
        conversation: Conversation,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        streamer: TextStreamer | None = None,
    ) -> Reply:
        """Answer the last turn of a conversation.

        Each image is loaded once, also for later replies.

        Args:
            conversation: Turns that end with the user's.
            max_new_tokens: Length of the longest answer.
            sampling: How to sample tokens; None is greedy.
            streamer: Receives every token when it is generated.

        Raises:
            UserError: The conversation is longer than the model's context.
        """
        prompt = encode_prompt(conversation, self.processor, loader=self._loader)
        prompts = self.on_device(collate_prompts([prompt], self.processor.pad_id))
        ids = generate_ids(self.network, prompts, max_new_tokens, sampling, streamer)[0]
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Reply(text, complete=self.processor.eos_id in ids, tokens=len(ids))

    def on_device(self, prompts: Prompts) -> Prompts:
        """Move the tensors to the model's device; normalize vision inputs, in the model's dtype."""
        device = self.network.device
        on_device = {name: tensor.to(device) for name, tensor in prompts.vision_inputs.items()}
        normalized = self.processor.family.normalize(on_device, self.processor)
        return replace(
            prompts,
            input_ids=prompts.input_ids.to(device),
            attention_mask=prompts.attention_mask.to(device),
            image_index=prompts.image_index.to(device),
            vision_inputs={
                name: tensor.to(self.network.dtype) for name, tensor in normalized.items()
            },
        )


def load_model(
    checkpoint: str | Path = "embedded",
    *,
    adapter: str | Path | None = None,
    dtype: DType = "auto",
    device: str | torch.device | None = None,
) -> ChatModel:
    """Load a checkpoint to ask it about images.

    Args:
        checkpoint: "embedded" (small, in the package), a local folder, e.g. a merged checkpoint, or
            a Hugging Face hub name.
        adapter: Folder `adapter/` of a run on this checkpoint; None loads none.
        dtype: Of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        device: Where the model runs; None takes a GPU if there is one.

    Raises:
        UserError: There is no such checkpoint, or the adapter is of another one.

    Example:
        >>> import dsvl_tune
        >>> model = dsvl_tune.load_model("embedded")  # doctest: +SKIP
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    base = open_checkpoint(checkpoint)
    network = create_model(base, DTYPES[dtype])
    if adapter is not None:
        load_trained(network, Path(adapter))
    return ChatModel(network.to(device).eval(), base.processor)


def image_ref(image: ImageInput, source: str) -> ImageRef:
    """Refer to an image, after checking that it can be read.

    Args:
        image: A file, or an image in memory.
        source: Where the image was given, for the error.

    Raises:
        UserError: It cannot be read.
    """
    if isinstance(image, Image.Image):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        ref = ImageRef(image, f"memory:{image.mode}:{image.size}:{digest}")
    else:
        path = Path(image).expanduser()
        ref = ImageRef(path, str(path.resolve()))
    load_image(ref, source)
    return ref


def question_parts(
    question: str, images: Sequence[ImageRef], source: str
) -> tuple[str | ImageRef, ...]:
    """Put images where a question has `<image>`, or in front of its text if it has none.

    Args:
        question: Text of the question.
        images: Images in the order of their places.
        source: Where the question was given, for the error.

    Raises:
        UserError: There are fewer or more places than images.
    """
    parts = split_placeholders(question)
    if len(parts) == 1:
        return (*images, str(parts[0]))
    fill_placeholders([Message("user", parts)], images, source)
    return tuple(part for part in parts if isinstance(part, (str, ImageRef)))
