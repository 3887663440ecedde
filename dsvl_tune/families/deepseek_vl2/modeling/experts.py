"""Router and routed experts of DeepSeek-VL2.

No class of transformers computes both of its routing rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN

from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2TextConfig
from dsvl_tune.families.experts import LowRank, StackedExperts


class Router(nn.Module):
    """Chooses the experts of each token.

    Source: MoEGate in deepseek_vl2/models/modeling_deepseek.py of deepseek-ai/DeepSeek-VL2.
    """

    e_score_correction_bias: Tensor | None

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__()
        assert config.n_routed_experts is not None and config.num_experts_per_tok is not None
        self.top_k = config.num_experts_per_tok
        self.scoring = config.scoring_func
        self.normalize = config.norm_topk_prob and self.top_k > 1
        self.scaling = config.routed_scaling_factor
        self.groups = config.n_group or 1
        self.groups_kept = config.topk_group or 1
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        # DeepSeek-VL2's bias was moved while pretraining and is fixed in fine-tuning (arXiv
        # 2412.10302, table 2): a buffer, which no optimizer sees.
        bias = torch.zeros(config.n_routed_experts) if config.topk_method == "noaux_tc" else None
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, choices and weights.

        Args:
            hidden: [N, D].

        Returns:
            Scores of all experts [N, E], numbers of the chosen ones [N, k] int64, and their weights
            [N, k], which the experts' outputs are multiplied by. Floats are float32 at least.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        # Autocast would round the logits to 16 bits, which changes choices near ties.
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.to(wide), self.weight.to(wide))
        scores = logits.softmax(-1) if self.scoring == "softmax" else logits.sigmoid()
        chosen = self.choose(scores)
        weights = scores.gather(1, chosen)
        if self.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return scores, chosen, weights * self.scaling

    @torch.no_grad()
    def choose(self, scores: Tensor) -> Tensor:
        """The chosen experts [N, k] of scores [N, E]."""
        if self.e_score_correction_bias is None:
            return scores.topk(self.top_k, sorted=False).indices
        corrected = scores + self.e_score_correction_bias
        if self.groups_kept < self.groups:
            grouped = corrected.unflatten(1, (self.groups, -1))
            best = grouped.topk(2).values.sum(-1).topk(self.groups_kept, sorted=False).indices
            kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, True)
            corrected = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)
        return corrected.topk(self.top_k, sorted=False).indices


NO_ADAPTERS: Mapping[str, LowRank] = MappingProxyType({})


class Experts(StackedExperts):
    """All routed experts of a layer: each token is computed by those that it chose, no others.

    The tokens are sorted by expert, and each matrix product is one grouped matmul over all experts.
    """

    def __init__(self, config: DeepseekVL2TextConfig) -> None:
        super().__init__()
        assert config.n_routed_experts is not None
        experts, width = config.n_routed_experts, config.hidden_size
        inner = config.moe_intermediate_size
        self.count = experts
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))
        self.activation = ACT2FN[config.hidden_act]

    def forward(
        self,
        hidden: Tensor,
        chosen: Tensor,
        weights: Tensor,
        adapters: Mapping[str, LowRank] = NO_ADAPTERS,
    ) -> Tensor:
        """The weighted sum of the chosen experts' outputs.

        Args:
            hidden: [N, D].
            chosen: [N, k] int64, numbers of experts.
            weights: [N, k] of their outputs, float32 at least.
            adapters: by projection.

        Returns:
            [N, D] in the dtype of `hidden`.
        """
        device = hidden.device.type
        # Autocast does not know grouped matmuls: trained experts are float32, and would stay so.
        dtype = self.compute_dtype("gate_up_proj")
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        experts, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(self.count, device=experts.device)
        ends = torch.searchsorted(experts, numbers, right=True, out_int32=True)
        # Every index below is a permutation, so that no gradient is added up by atomic operations,
        # whose order would differ from run to run.
        copies = hidden.to(dtype)[:, None].expand(-1, chosen.shape[1], -1).flatten(0, 1)
        rows = copies.index_select(0, order)
        gate, up = self.product("gate_up_proj", rows, ends, adapters).chunk(2, dim=-1)
        outputs = self.product("down_proj", self.activation(gate) * up, ends, adapters)
        weighted = outputs * weights.flatten().index_select(0, order)[:, None]
        in_order = weighted.index_select(0, order.argsort())
        return in_order.view(*chosen.shape, -1).sum(1).to(hidden.dtype)


def init_experts(module: nn.Module, std: float) -> None:
    """Draw new weights of a router or of experts, which transformers' own rules do not know."""
    if isinstance(module, Router):
        init.normal_(module.weight, std=std)
        if module.e_score_correction_bias is not None:
            init.zeros_(module.e_score_correction_bias)
    elif isinstance(module, Experts):
        init.normal_(module.gate_up_proj, std=std)
        init.normal_(module.down_proj, std=std)
