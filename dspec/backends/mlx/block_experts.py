"""Mixture of experts: every token visits a few MLPs that a router chooses for it."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from dspec.backends.mlx.drafter_layers import Mlp
from dspec.block_config import BlockModelConfig, ExpertConfig

# Added to the sum that the weights of a token's experts are divided by.
TINY = 1e-20


class Router(nn.Module):
    """Chooses the experts of a token, in float32 whatever the model's dtype."""

    def __init__(self, config: BlockModelConfig, experts: ExpertConfig) -> None:
        super().__init__()
        self._experts = experts
        self.weight = mx.full((experts.num_experts, config.hidden_size), mx.nan)
        self.expert_bias = mx.full((experts.num_experts,), mx.nan)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Return the ids (T, k) of each token's experts and their weights (T, k), float32."""
        scores = mx.sigmoid(x.astype(mx.float32) @ self.weight.astype(mx.float32).T)
        ids = choose(scores + self.expert_bias.astype(mx.float32), self._experts)
        weights = mx.take_along_axis(scores, ids, axis=1)
        if self._experts.num_experts_per_tok > 1:  # a single expert keeps its score, as published
            weights = weights / (weights.sum(-1, keepdims=True) + TINY)
        return ids, weights * self._experts.routed_scaling_factor


class Experts(nn.Module):
    """The MLPs of all experts, each weight stacked along a first axis of experts."""

    def __init__(self, config: BlockModelConfig, experts: ExpertConfig) -> None:
        super().__init__()
        count, width, inner = experts.num_experts, config.hidden_size, experts.moe_intermediate_size
        self.gate_proj = mx.full((count, inner, width), mx.nan)
        self.up_proj = mx.full((count, inner, width), mx.nan)
        self.down_proj = mx.full((count, width, inner), mx.nan)

    def __call__(self, x: mx.array, ids: mx.array, weights: mx.array) -> mx.array:
        """Return (T, D): the weighted sum of what each token's experts make of it.

        Pairs of token and expert are sorted by expert, so that one gathered product serves them all.

        Args:
            x: (T, D).
            ids: (T, k) experts of each token.
            weights: (T, k) float32.
        """
        order = mx.argsort(ids.flatten())
        expert = ids.flatten()[order]
        inputs = x[order // ids.shape[1]][:, None]
        inner = nn.silu(_grouped(inputs, self.gate_proj, expert)) * _grouped(inputs, self.up_proj, expert)
        outputs = _grouped(inner, self.down_proj, expert)[:, 0][mx.argsort(order)]
        outputs = mx.unflatten(outputs, 0, ids.shape)
        # Summed per token in a fixed order: adding into place would depend on who else is there.
        return (outputs.astype(weights.dtype) * weights[..., None]).sum(1).astype(x.dtype)


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

    def __call__(self, x: mx.array) -> mx.array:
        """Return (R, P, D) for (R, P, D)."""
        tokens = x.flatten(0, 1)
        mixed = self.experts(tokens, *self.gate(tokens)).reshape(x.shape)
        return mixed if self.shared_experts is None else mixed + self.shared_experts(x)


def choose(scores: mx.array, experts: ExpertConfig) -> mx.array:
    """Return the ids (T, k) of the best experts in the best groups.

    A group is as good as the sum of its two best scores.

    Args:
        scores: (T, experts) float32, the bias added.
        experts: numbers of experts and groups.

    Example:
        >>> experts = ExpertConfig(num_experts=4, num_experts_per_tok=1, n_group=2, topk_group=1,
        ...                        moe_intermediate_size=8)
        >>> choose(mx.array([[0.9, 0.0, 0.6, 0.5]]), experts).tolist()
        [[2]]
    """
    if experts.topk_group < experts.n_group:
        groups = mx.unflatten(scores, -1, (experts.n_group, -1))
        pairs = mx.topk(groups, 2, axis=-1).sum(-1)
        best = mx.argsort(-pairs, axis=-1)[..., : experts.topk_group]
        is_open = (mx.arange(experts.n_group) == best[..., None]).any(-2)
        scores = mx.where(is_open[..., None], groups, -mx.inf).flatten(-2)
    return mx.argsort(-scores, axis=-1)[..., : experts.num_experts_per_tok]


def _grouped(x: mx.array, weight: mx.array, expert: mx.array) -> mx.array:
    """Return rows (n, 1, D) times the matrix of their expert; the experts are sorted."""
    # MLX's CPU gathers float32 only. There narrow weights are widened in every pass, which is slow.
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    wide = mx.float32 if on_cpu else x.dtype
    weight = weight.astype(wide).swapaxes(-1, -2)
    found = mx.gather_mm(x.astype(wide), weight, rhs_indices=expert, sorted_indices=True)
    return found.astype(x.dtype)
