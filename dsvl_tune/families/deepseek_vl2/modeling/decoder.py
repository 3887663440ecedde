"""The three decoders of DeepSeek-VL2 as one, composed of transformers' blocks.

MHA is Llama's attention, MLA that of DeepSeek-V3, and dense and shared MLPs and norms are Llama's.
Router and experts are in `experts`. Agreement with the reference implementation:
tests/parity/test_deepseek_vl2_model.py.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RotaryEmbedding,
)
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2TextConfig
from dsvl_tune.families.deepseek_vl2.modeling.experts import Experts, Router, init_experts


class LatentAttention(DeepseekV3Attention):
    """DeepSeek-V3's attention with Llama's norms, whose faster and exact forms exist here."""

    def __init__(self, config: DeepseekVL2TextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.kv_a_layernorm = LlamaRMSNorm(config.kv_lora_rank, config.rms_norm_eps)
        if config.q_lora_rank is not None:
            self.q_a_layernorm = LlamaRMSNorm(config.q_lora_rank, config.rms_norm_eps)


class MixtureOfExperts(nn.Module):
    """Routed experts, and shared ones that every token uses, added without a weight."""

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        shared = config.moe_intermediate_size * (config.n_shared_experts or 0)
        self.shared_experts = mlp_of_width(config, shared) if shared else None

    def forward(self, hidden: Tensor) -> Tensor:
        """From and to [B, T, D]."""
        rows = hidden.flatten(0, -2)
        _, chosen, weights = self.gate(rows)
        routed = self.experts(rows, chosen, weights).view_as(hidden)
        if self.shared_experts is None:
            return routed
        return routed + self.shared_experts(hidden)


def mlp_of_width(config: DeepseekVL2TextConfig, width: int) -> LlamaMLP:
    """A gated MLP with this width inside."""
    config = copy.deepcopy(config)
    config.intermediate_size = width
    return LlamaMLP(config)


class DeepseekVL2DecoderLayer(GradientCheckpointingLayer):
    """Attention, then a dense MLP or experts, each after a norm and added to its input."""

    def __init__(self, config: DeepseekVL2TextConfig, layer_idx: int) -> None:
        super().__init__()
        attention = LatentAttention if config.use_mla else LlamaAttention
        self.self_attn = attention(config, layer_idx)
        sparse = layer_idx >= config.first_k_dense_replace and config.n_routed_experts
        self.mlp = MixtureOfExperts(config) if sparse else LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """From and to [B, T, D]."""
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        hidden_states = hidden_states + attended
        mixed: Tensor = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + mixed


class DeepseekVL2TextModel(PreTrainedModel):
    """The decoder without its head."""

    config: DeepseekVL2TextConfig
    config_class = DeepseekVL2TextConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DeepseekVL2DecoderLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # A rounded bias changes choices near ties.
    _keep_in_fp32_modules_strict = ("e_score_correction_bias",)

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DeepseekVL2DecoderLayer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = DeepseekV3RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_experts(module, self.config.initializer_range)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        """Last hidden states.

        Args:
            inputs_embeds: [B, T, D].
            attention_mask: [B, T] of which tokens are no padding, a mask [B, 1, T, T], or a block
                mask of FlexAttention.
            position_ids: [B, T] int64; None counts from the length of the cache.
            past_key_values: keys and values of earlier tokens.
            use_cache: whether to return a cache.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            positions = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (positions + past)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden = inputs_embeds
        rotation = self.rotary_emb(hidden, position_ids=position_ids)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=rotation,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )
