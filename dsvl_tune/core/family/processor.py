"""What turning conversations into tokens and vision inputs needs of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dsvl_tune.core.family.family import Family


@dataclass(frozen=True)
class Processor:
    """Everything that turning a conversation into tokens and vision inputs needs of a checkpoint.

    Attributes:
        tokenizer: of the checkpoint.
        family: renders prompts and prepares images.
        image_settings: how images become vision inputs; the family's own type.
        image_token: the token that stands for an image in text.
        image_token_id: its id; every visual token has it.
        default_system: system prompt of conversations that bring none ("" for none).
        bos_id: token id.
        eos_id: token id.
        pad_id: token id.
        context_tokens: longest row that the checkpoint supports.
        roles: what the prompt calls the user and the assistant.
    """

    tokenizer: PreTrainedTokenizerFast
    family: Family
    image_settings: Any
    image_token: str
    image_token_id: int
    default_system: str
    bos_id: int
    eos_id: int
    pad_id: int
    context_tokens: int
    roles: tuple[str, str] = ("User", "Assistant")
