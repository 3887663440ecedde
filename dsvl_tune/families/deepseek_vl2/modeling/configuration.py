"""Configuration classes of DeepSeek-VL2 in transformers' terms, which transformers itself lacks.

Annotations are evaluated here (no `annotations` of `__future__`): the types of keys are checked.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig, SiglipVisionConfig

MODEL_TYPE = "deepseek_vl2"
"""`model_type` of a checkpoint in transformers' layout; the original's is deepseek_vl_v2."""


@strict
class DeepseekVL2TextConfig(PretrainedConfig):
    """The mixture-of-experts decoder, with attention of many heads (MHA) or latent attention (MLA).

    The defaults are those of DeepSeek's own class, which published files leave out. Source:
    deepseek_vl2/models/configuration_deepseek.py of deepseek-ai/DeepSeek-VL2.

    Attributes:
        vocab_size: rows of the embedding and the head.
        hidden_size: width of the decoder (D).
        intermediate_size: width inside the dense MLP.
        moe_intermediate_size: width inside one expert.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads (MHA only).
        n_shared_experts: experts that every token uses: one MLP of this many experts' width.
        n_routed_experts: experts that the router chooses from (E).
        routed_scaling_factor: the weights of chosen experts are multiplied by it.
        kv_lora_rank: width of the latent keys and values (MLA only).
        q_lora_rank: width of the latent queries; None has none (MLA only).
        qk_rope_head_dim: dimensions of a head that are rotated (MLA only).
        v_head_dim: width of a value head (MLA only).
        qk_nope_head_dim: dimensions of a head that are not rotated (MLA only).
        topk_method: greedy, or noaux_tc, which adds a correction bias to the scores for the choice
            alone.
        n_group: groups of experts (noaux_tc only).
        topk_group: groups that a token's experts are chosen from (noaux_tc only).
        num_experts_per_tok: routed experts of a token (k).
        first_k_dense_replace: first layers with a dense MLP instead of experts.
        norm_topk_prob: whether the weights of the chosen experts are divided by their sum.
        scoring_func: softmax or sigmoid of the router's logits.
        aux_loss_alpha: weight of the balance loss in DeepSeek's training.
        hidden_act: activation inside MLPs and experts.
        max_position_embeddings: longest row.
        initializer_range: standard deviation of new weights.
        rms_norm_eps: of all RMS norms.
        attention_bias: whether some projections of the attention have a bias.
        attention_dropout: 0..1.
        use_mla: latent attention, else attention of many heads.
        rope_parameters: of the rotary positions.
    """

    model_type = "deepseek_vl2_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {"num_local_experts": "n_routed_experts"}  # noqa: RUF012  # transformers' form

    vocab_size: int = 102400
    hidden_size: int = 4096
    intermediate_size: int = 11008
    moe_intermediate_size: int = 1407
    num_hidden_layers: int = 30
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    n_shared_experts: int | None = None
    n_routed_experts: int | None = None
    routed_scaling_factor: float | int = 1.0
    kv_lora_rank: int | None = 512
    q_lora_rank: int | None = 1536
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    qk_nope_head_dim: int = 128
    topk_method: str = "greedy"
    n_group: int | None = None
    topk_group: int | None = None
    num_experts_per_tok: int | None = None
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"
    aux_loss_alpha: float | int = 0.001
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 100000
    eos_token_id: int | None = 100001
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    mlp_bias: bool = False
    use_mla: bool = True
    head_dim: int | None = None
    qk_head_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # What is rotated of a head: transformers' rotary embedding reads it under this name. A
        # `qk_head_dim` tells its caches that keys and values differ in width.
        if self.use_mla:
            self.head_dim = self.qk_rope_head_dim
            self.qk_head_dim = self.qk_nope_head_dim + self.qk_rope_head_dim
        else:
            self.head_dim = self.hidden_size // self.num_attention_heads
            self.qk_head_dim = None
        # Interleaved pairs are rotated, as in DeepSeek's code (`apply_rotary_pos_emb`).
        self.rope_interleave = True
        super().__post_init__(**kwargs)


@strict
class DeepseekVL2Config(PretrainedConfig):
    """SigLIP, a downsampling projector, and the decoder.

    Attributes:
        text_config: of the decoder.
        vision_config: of SigLIP, which encodes one tile.
        image_token_id: stands for every visual token, newlines and the separator included.
        downsample_ratio: side of the blocks of patches that become one visual token.
        candidate_resolutions: (width, height) in px that a picture may be padded to and cut into
            tiles.
        tie_word_embeddings: whether head and embedding are one tensor.
    """

    model_type = MODEL_TYPE
    sub_configs = {  # noqa: RUF012  # transformers' form
        "text_config": DeepseekVL2TextConfig,
        "vision_config": SiglipVisionConfig,
    }

    text_config: Any = None
    vision_config: Any = None
    image_token_id: int = 128815
    downsample_ratio: int = 2
    candidate_resolutions: Any = ((384, 384),)
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in self.sub_configs.items():
            given = getattr(self, name)
            if not isinstance(given, PretrainedConfig):
                setattr(self, name, kind(**(given or {})))
        super().__post_init__(**kwargs)
