"""The layers of a DFlash v1 drafter; attribute names are those of the published tensors."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from dspec.backends.mlx.rotary import Rotation, rotate
from dspec.config import DrafterConfig

# Takes a layer's own keys and values (B, H, Q, d); returns all that its queries meet (B, H, N, d).
Gather = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]


class Linear(nn.Module):
    """A product with a matrix; NaN until weights are loaded or drawn, so that none can be forgotten."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = mx.full((n_out, n_in), mx.nan)

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., n_out) for (..., n_in)."""
        # In training a matrix may be narrower than what it meets, as under torch's autocast.
        return x.astype(self.weight.dtype) @ self.weight.T


class Norm(nn.Module):
    """Division by the root mean square in float32, then a gain; NaN until weights are loaded or drawn."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.full((width,), mx.nan)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Return x over its root mean square along the last axis, times the gain."""
        # MLX's own kernel sums in float32 whatever the dtype of x.
        return mx.fast.rms_norm(x, self.weight, self.eps)


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

    def keys_values(self, x: mx.array, rotation: Rotation) -> tuple[mx.array, mx.array]:
        """Return keys and values (B, H, S, d) of (B, S, D): normed block slots, or context as fused."""
        keys = rotate(self.k_norm(self._heads(self.k_proj(x))).swapaxes(1, 2), rotation)
        values = self._heads(self.v_proj(x)).swapaxes(1, 2)
        return keys.astype(values.dtype), values

    def __call__(
        self, x: mx.array, rotation: Rotation, keys: mx.array, values: mx.array, mask: mx.array | None
    ) -> mx.array:
        """Return (B, Q, D): what the slots read from keys and values (B, H, N, d)."""
        queries = rotate(self.q_norm(self._heads(self.q_proj(x))).swapaxes(1, 2), rotation)
        read = attend(queries.astype(values.dtype), keys, values, mask)
        return self.o_proj(read.swapaxes(1, 2).flatten(2))

    def _heads(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (-1, self.head_dim))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., D) for (..., D)."""
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DrafterLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def __call__(
        self, hidden: mx.array, rotation: Rotation, gather: Gather, mask: mx.array | None
    ) -> mx.array:
        """Return (B, Q, D) for the block slots' (B, Q, D); `gather` joins the context's keys and values."""
        x = self.input_layernorm(hidden)
        keys, values = gather(*self.self_attn.keys_values(x, rotation))
        hidden = hidden + self.self_attn(x, rotation, keys, values, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """Return softmax(queries keys^T / sqrt(d)) values, each key head serving several query heads.

    Args:
        queries: (B, heads, Q, d).
        keys: (B, H, N, d); H divides the heads.
        values: (B, H, N, d).
        mask: (B, 1, Q, N) bool, True where a query may look; None: all.

    Returns:
        (B, heads, Q, d).
    """
    # MLX serves grouped heads as they are: nothing is repeated.
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=queries.shape[-1] ** -0.5, mask=mask
    )
