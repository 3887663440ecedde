"""DeepSeek-VL2 as one model of transformers: SigLIP, projector, tile layout and decoder.

Source: deepseek_vl2/models/modeling_deepseek_vl_v2.py of deepseek-ai/DeepSeek-VL2. Importing this
module makes transformers' auto classes know the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationMixin,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)

from dsvl_tune.families.deepseek_vl2.layout import join_tiles, split_tiles, view_side
from dsvl_tune.families.deepseek_vl2.modeling.configuration import MODEL_TYPE, DeepseekVL2Config
from dsvl_tune.families.deepseek_vl2.modeling.decoder import DeepseekVL2TextModel, init_experts


class DownsampleProjector(nn.Module):
    """Blocks of patches to visual tokens in the width of the decoder: two layers, exact GELU."""

    def __init__(self, config: DeepseekVL2Config) -> None:
        super().__init__()
        self.ratio = config.downsample_ratio
        width = config.text_config.hidden_size
        self.linear1 = nn.Linear(config.vision_config.hidden_size * self.ratio**2, width)
        self.activation = nn.GELU()
        self.linear2 = nn.Linear(width, width)

    def forward(self, patches: Tensor) -> Tensor:
        """From patches [C, P * P, W] to visual tokens [C, G * G, D], G the side of a view.

        The grid is padded with zeros on the right and at the bottom to whole blocks. The values of
        a block are adjacent for each channel, as in `pixel_unshuffle`.
        """
        side = int(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        missing = -side % self.ratio
        blocks = F.pixel_unshuffle(F.pad(grid, (0, missing, 0, missing)), self.ratio)
        tokens: Tensor = self.linear2(self.activation(self.linear1(blocks.flatten(2).mT)))
        return tokens


class DeepseekVL2PreTrainedModel(PreTrainedModel):
    """What both classes below share."""

    config: DeepseekVL2Config
    config_class = DeepseekVL2Config
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ("DeepseekVL2DecoderLayer", "SiglipEncoderLayer")
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = DeepseekVL2TextModel._keep_in_fp32_modules_strict

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_experts(module, self.config.text_config.initializer_range)
        if isinstance(module, DeepseekVL2Model):
            width = self.config.text_config.hidden_size
            init.normal_(module.image_newline, std=width**-0.5)
            init.normal_(module.view_separator, std=width**-0.5)


class DeepseekVL2Model(DeepseekVL2PreTrainedModel):
    """The model without its head.

    `image_newline` [D] ends every row of visual tokens, `view_separator` [D] stands between the
    view of the whole picture and its tiles.
    """

    def __init__(self, config: DeepseekVL2Config) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.projector = DownsampleProjector(config)
        self.image_newline = nn.Parameter(torch.empty(width))
        self.view_separator = nn.Parameter(torch.empty(width))
        self.language_model = DeepseekVL2TextModel(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.language_model.embed_tokens = value

    def encode_tiles(self, pixel_values: Tensor) -> Tensor:
        """The visual tokens of tiles: from [C, 3, S, S], normalized, to [C, G * G, D]."""
        patches = self.vision_tower(pixel_values).last_hidden_state
        tokens: Tensor = self.projector(patches)
        return tokens

    def lay_out(self, tiles: Tensor, image_grids: Tensor) -> list[Tensor]:
        """The visual tokens of images, newlines and separators included.

        Args:
            tiles: [C, G * G, D], of all images one after the other.
            image_grids: [I, 2], tiles (wide, high) of each image.

        Returns:
            Of each image [V_i, D].
        """
        side = view_side(self.config)
        newline, separator = self.image_newline.to(tiles), self.view_separator.to(tiles)
        return [
            join_tiles(own.unflatten(1, (side, side)), grid, newline, separator)
            for own, grid in split_tiles(tiles, image_grids)
        ]

    def get_image_features(
        self, pixel_values: Tensor, image_grids: Tensor, return_dict: bool = True
    ) -> BaseModelOutputWithPooling:
        """The visual tokens of images, one after the other: [V, D].

        Args:
            pixel_values: [C, 3, S, S], the tiles of all images, normalized.
            image_grids: [I, 2], tiles (wide, high) of each image.
            return_dict: transformers' generation gives it; always true.
        """
        images = self.lay_out(self.encode_tiles(pixel_values), image_grids)
        return BaseModelOutputWithPooling(pooler_output=torch.cat(images))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
    ) -> BaseModelOutputWithPast:
        """Last hidden states [B, T, D]; arguments as in `DeepseekVL2TextModel` and below.

        Args:
            input_ids: [B, T] int64, the image token in the place of each visual token.
            pixel_values: see `get_image_features`.
            image_grids: likewise, of the images in reading order.
            attention_mask: as in the decoder.
            position_ids: as in the decoder.
            past_key_values: as in the decoder.
            inputs_embeds: [B, T, D] instead of ids; visual tokens are then in it.
            use_cache: as in the decoder.
            mm_encoder_outputs: under "image" the visual tokens as `pooler_output`, [*, D], instead
                of pixels.

        Raises:
            ValueError: the image tokens are more or fewer than the visual tokens.
        """
        image = (mm_encoder_outputs or {}).get("image")
        if image is None and pixel_values is not None:
            assert image_grids is not None, "pixel_values without image_grids"
            image = self.get_image_features(pixel_values, image_grids)
        if inputs_embeds is None:
            assert input_ids is not None, "neither input_ids nor inputs_embeds"
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if image is not None:
                inputs_embeds = self.fill_in(inputs_embeds, input_ids, image.pooler_output)
        output: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return output

    def fill_in(self, embeddings: Tensor, input_ids: Tensor, visual: Tensor) -> Tensor:
        """Visual tokens in the places of the image token, in reading order.

        Args:
            embeddings: [B, T, D].
            input_ids: [B, T].
            visual: [..., D].

        Raises:
            ValueError: there are more or fewer places than visual tokens.
        """
        visual = visual.reshape(-1, embeddings.shape[-1]).to(embeddings)
        places = input_ids == self.config.image_token_id
        if int(places.sum()) != len(visual):
            raise ValueError(
                f"{int(places.sum())} image tokens in the ids, but {len(visual)} visual tokens"
            )
        return embeddings.masked_scatter(places[..., None], visual)


class DeepseekVL2ForConditionalGeneration(DeepseekVL2PreTrainedModel, GenerationMixin):
    """The complete model."""

    _tied_weights_keys = {  # noqa: RUF012  # transformers' form
        "lm_head.weight": "model.language_model.embed_tokens.weight"
    }
    output_modalities = ("text",)

    def __init__(self, config: DeepseekVL2Config) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = DeepseekVL2Model(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        return_dict: bool = True,
        **unused: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, vocabulary]; arguments as in `DeepseekVL2Model` and below.

        Args:
            input_ids: as in the model without head.
            pixel_values: likewise.
            image_grids: likewise.
            attention_mask: likewise.
            position_ids: likewise.
            past_key_values: likewise.
            inputs_embeds: likewise.
            labels: [B, T] int64, -100 where no loss is computed.
            use_cache: likewise.
            logits_to_keep: how many of the last positions get logits, 0 for all, or which.
            mm_encoder_outputs: likewise.
            return_dict: transformers' generation gives it; always true.
            unused: what transformers' generation gives every model.
        """
        output = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grids=image_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values
        )


AutoConfig.register(MODEL_TYPE, DeepseekVL2Config, exist_ok=True)
AutoModelForImageTextToText.register(
    DeepseekVL2Config, DeepseekVL2ForConditionalGeneration, exist_ok=True
)
