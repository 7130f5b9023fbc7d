"""Mixture of experts: every token visits a few MLPs that a router chooses for it."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dspec.backends.torch.drafter_layers import Mlp
from dspec.block_config import BlockModelConfig, ExpertConfig
from dspec.errors import BackendUnavailable, explain

# Added to the sum that the weights of a token's experts are divided by.
TINY = 1e-20


class Router(nn.Module):
    """Chooses the experts of a token, in float32 whatever the model's dtype."""

    def __init__(self, config: BlockModelConfig, experts: ExpertConfig) -> None:
        super().__init__()
        self._experts = experts
        self.weight = nn.Parameter(torch.full((experts.num_experts, config.hidden_size), torch.nan))
        self.expert_bias = nn.Parameter(torch.full((experts.num_experts,), torch.nan))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids (T, k) of each token's experts and their weights (T, k), float32."""
        scores = torch.sigmoid(functional.linear(x.float(), self.weight.float()))
        ids = choose(scores + self.expert_bias.float(), self._experts)
        weights = scores.gather(1, ids)
        if self._experts.num_experts_per_tok > 1:  # a single expert keeps its score, as published
            weights = weights / (weights.sum(-1, keepdim=True) + TINY)
        return ids, weights * self._experts.routed_scaling_factor


class Experts(nn.Module):
    """The MLPs of all experts, each weight stacked along a first axis of experts."""

    def __init__(self, config: BlockModelConfig, experts: ExpertConfig) -> None:
        super().__init__()
        count, width, inner = experts.num_experts, config.hidden_size, experts.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.full((count, inner, width), torch.nan))
        self.up_proj = nn.Parameter(torch.full((count, inner, width), torch.nan))
        self.down_proj = nn.Parameter(torch.full((count, width, inner), torch.nan))
        if not hasattr(functional, "grouped_mm"):
            needed = "one with torch.nn.functional.grouped_mm"
            raise BackendUnavailable(explain("torch", torch.__version__, needed, clause="SS-23"))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Return (T, D): the weighted sum of what each token's experts make of it.

        Pairs of token and expert are sorted by expert, so that one grouped product serves them all. Where
        a group ends is known on the device only: nothing here waits for it. (On CUDA torch has a kernel
        for bfloat16; whether its way for other dtypes waits was not seen, for want of a GPU.)

        Args:
            x: (T, D).
            ids: (T, k) experts of each token.
            weights: (T, k) float32.
        """
        order = ids.flatten().argsort(stable=True)
        every = torch.arange(self.gate_proj.shape[0], device=x.device)
        ends = torch.searchsorted(ids.flatten()[order], every, right=True).to(torch.int32)
        inputs = x[order // ids.shape[1]]
        inner = functional.silu(_grouped(inputs, self.gate_proj, ends)) * _grouped(inputs, self.up_proj, ends)
        outputs = _grouped(inner, self.down_proj, ends)[order.argsort()].unflatten(0, ids.shape)
        # Summed per token in a fixed order: adding into place would depend on who else is there.
        return (outputs.to(weights.dtype) * weights[..., None]).sum(1).to(x.dtype)


class SparseMlp(nn.Module):
    """Router, experts, and the experts that every token visits."""

    def __init__(self, config: BlockModelConfig) -> None:
        super().__init__()
        experts = config.experts
        assert experts is not None
        self.gate = Router(config, experts)
        self.experts = Experts(config, experts)
        shared = replace(config, intermediate_size=max(experts.shared_size, 1))
        self.shared_experts = Mlp(shared) if experts.num_shared_experts else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, P, D) for (R, P, D)."""
        tokens = x.flatten(0, 1)
        mixed = self.experts(tokens, *self.gate(tokens)).view_as(x)
        return mixed if self.shared_experts is None else mixed + self.shared_experts(x)


def choose(scores: Tensor, experts: ExpertConfig) -> Tensor:
    """Return the ids (T, k) of the best experts in the best groups.

    A group is as good as the sum of its two best scores.

    Args:
        scores: (T, experts) float32, the bias added.
        experts: numbers of experts and groups.

    Example:
        >>> experts = ExpertConfig(num_experts=4, num_experts_per_tok=1, n_group=2, topk_group=1,
        ...                        moe_intermediate_size=8)
        >>> choose(torch.tensor([[0.9, 0.0, 0.6, 0.5]]), experts).tolist()
        [[2]]
    """
    if experts.topk_group < experts.n_group:
        groups = scores.unflatten(-1, (experts.n_group, -1))
        best = groups.topk(2, dim=-1).values.sum(-1).topk(experts.topk_group, dim=-1).indices
        open_groups = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter(-1, best, True)
        scores = groups.masked_fill(~open_groups[..., None], -torch.inf).flatten(-2)
    return scores.topk(experts.num_experts_per_tok, dim=-1).indices


def _grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Return rows times the matrix of their group; group e ends before row ends[e]."""
    return functional.grouped_mm(x, weight.transpose(1, 2), offs=ends)
