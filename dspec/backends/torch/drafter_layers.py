"""The layers of a DFlash v1 drafter; attribute names are those of the published tensors."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from dspec.backends.torch.rotary import Rotation, rotate
from dspec.config import DrafterConfig

# Takes a layer's own keys and values (B, H, Q, d); returns all that its queries meet (B, H, N, d).
Gather = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Linear(nn.Module):
    """A product with a matrix; NaN until weights are loaded or drawn, so that none can be forgotten."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((n_out, n_in), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., n_out) for (..., n_in)."""
        return functional.linear(x, self.weight)


class Norm(nn.Module):
    """Division by the root mean square in float32, then a gain; NaN until weights are loaded or drawn."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), torch.nan))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x over its root mean square along the last axis, times the gain."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention of block slots over context and block, with normed queries and keys."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        width, self.head_dim = config.hidden_size, config.head_dim
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = Linear(width, queries)
        self.k_proj = Linear(width, keys)
        self.v_proj = Linear(width, keys)
        self.o_proj = Linear(queries, width)
        self.q_norm = Norm(self.head_dim, config.rms_norm_eps)
        self.k_norm = Norm(self.head_dim, config.rms_norm_eps)

    def keys_values(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, S, d) of (B, S, D): normed block slots, or context as fused."""
        keys = rotate(self.k_norm(self._heads(self.k_proj(x))).transpose(1, 2), rotation)
        values = self._heads(self.v_proj(x)).transpose(1, 2)
        return keys.to(values.dtype), values

    def forward(
        self, x: Tensor, rotation: Rotation, keys: Tensor, values: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """Return (B, Q, D): what the slots read from keys and values (B, H, N, d)."""
        queries = rotate(self.q_norm(self._heads(self.q_proj(x))).transpose(1, 2), rotation)
        read = attend(queries.to(values.dtype), keys, values, mask)
        return self.o_proj(read.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) for (..., D)."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class DrafterLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self, hidden: Tensor, rotation: Rotation, gather: Gather, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """Return (B, Q, D) for the block slots' (B, Q, D); `gather` joins the context's keys and values."""
        x = self.input_layernorm(hidden)
        keys, values = gather(*self.self_attn.keys_values(x, rotation))
        hidden = hidden + self.self_attn(x, rotation, keys, values, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Return softmax(queries keys^T / sqrt(d)) values, each key head serving several query heads.

    Args:
        queries: (B, heads, Q, d).
        keys: (B, H, N, d); H divides the heads.
        values: (B, H, N, d).
        mask: (B, 1, Q or 1, N) bool, True where a query may look; a flex attention `BlockMask`; None: all.

    Returns:
        (B, heads, Q, d).
    """
    if isinstance(mask, BlockMask):
        return _compiled_flex()(queries, keys, values, block_mask=mask, enable_gqa=True)
    if mask is None:
        return functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)
    if mask.shape[2] == 1:
        # One mask for all queries: the heads of a key head stand as further queries of it, and no key is
        # copied.
        folded = queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        read = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        return read.unflatten(2, (-1, queries.shape[2])).flatten(1, 2)
    # With a mask CUDA has no fast kernel for grouped heads: repeat them.
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(repeats, dim=1), values.repeat_interleave(repeats, dim=1)
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


@cache
def _compiled_flex() -> Any:
    """Uncompiled flex attention would build the whole score matrix."""
    return torch.compile(flex_attention)
