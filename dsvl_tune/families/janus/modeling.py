"""transformers' Janus without its image generation: what is trained and asked."""

from __future__ import annotations

from typing import Any

from transformers import GenerationMixin, JanusConfig, JanusForConditionalGeneration

from dsvl_tune.families.janus.parts import GENERATION


class JanusUnderstanding(JanusForConditionalGeneration):
    """transformers' class less the modules of image generation, which no answer and no loss uses.

    They are 114 million parameters in the 1B models and 173 million in the 7B. Their tensors go
    from file to file and never into a model.

    Args:
        config: of the complete model.
    """

    def __init__(self, config: JanusConfig) -> None:
        super().__init__(config)
        for name in GENERATION:
            delattr(self.model, name)

    def generate(self, *arguments: Any, **settings: Any) -> Any:
        """Generate text.

        transformers' own method chooses between text and an image, and its text form drops
        `logits_processor` (5.20 to 5.23), and with it a repetition penalty.

        Args:
            arguments: of `GenerationMixin.generate`.
            settings: likewise.
        """
        return GenerationMixin.generate(self, *arguments, **settings)
