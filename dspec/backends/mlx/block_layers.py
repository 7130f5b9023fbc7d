"""The layers of a block-diffusion model; attribute names are those of Qwen's published tensors."""

import mlx.core as mx
import mlx.nn as nn

from dspec.backends.mlx.block_experts import SparseMlp
from dspec.backends.mlx.drafter_layers import Gather, Linear, Mlp, Norm, attend
from dspec.backends.mlx.rotary import Rotation, rotate
from dspec.block_config import BlockModelConfig


class BiasedLinear(Linear):
    """A product with a matrix, and a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.bias = mx.full((n_out,), mx.nan)

    def __call__(self, x: mx.array) -> mx.array:
        """Return (..., n_out) for (..., n_in)."""
        return mx.addmm(self.bias, x, self.weight.T)


class BlockAttention(nn.Module):
    """Grouped-query attention of a pass's slots over cache and slots."""

    def __init__(self, config: BlockModelConfig) -> None:
        super().__init__()
        width, self.head_dim = config.hidden_size, config.head_dim
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        make = BiasedLinear if config.attention_bias else Linear
        self.q_proj = make(width, queries)
        self.k_proj = make(width, keys)
        self.v_proj = make(width, keys)
        self.o_proj = Linear(queries, width)
        self.q_norm = Norm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = Norm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def keys_values(self, x: mx.array, rotation: Rotation) -> tuple[mx.array, mx.array]:
        """Return keys and values (R, H, P, d) of normed slots (R, P, D)."""
        keys = self._turned(self.k_proj(x), self.k_norm, rotation)
        values = self._heads(self.v_proj(x)).swapaxes(1, 2)
        return keys, values

    def __call__(
        self, x: mx.array, rotation: Rotation, keys: mx.array, values: mx.array, mask: mx.array | None
    ) -> mx.array:
        """Return (R, P, D): what the slots read from keys and values (R, H, N, d); mask: (R, 1, P, N)."""
        queries = self._turned(self.q_proj(x), self.q_norm, rotation)
        read = attend(queries, keys, values, mask)
        return self.o_proj(read.swapaxes(1, 2).flatten(2))

    def _turned(self, x: mx.array, norm: Norm | None, rotation: Rotation) -> mx.array:
        heads = self._heads(x)
        return turn((heads if norm is None else norm(heads)).swapaxes(1, 2), rotation)

    def _heads(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (-1, self.head_dim))


class BlockLayer(nn.Module):
    """Attention and MLP or experts, each behind a norm and beside the residual stream."""

    def __init__(self, config: BlockModelConfig, *, sparse: bool) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = BlockAttention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SparseMlp(config) if sparse else Mlp(config)

    def __call__(
        self, hidden: mx.array, rotation: Rotation, gather: Gather, mask: mx.array | None
    ) -> mx.array:
        """Return (R, P, D) for the slots' (R, P, D); `gather` joins the cached keys and values."""
        x = self.input_layernorm(hidden)
        keys, values = gather(*self.self_attn.keys_values(x, rotation))
        hidden = hidden + self.self_attn(x, rotation, keys, values, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def turn(x: mx.array, rotation: Rotation) -> mx.array:
    """Return queries or keys (R, H, P, d), their leading entries turned by their positions.

    Args:
        x: queries or keys.
        rotation: cosines and sines as wide as the turned part.

    Example:
        >>> quarter = (mx.zeros((1, 1, 1, 2)), mx.ones((1, 1, 1, 2)))
        >>> turn(mx.array([[[[1.0, 0.0, 5.0]]]]), quarter).tolist()
        [[[[0.0, 1.0, 5.0]]]]
    """
    width = rotation[0].shape[-1]
    if width == x.shape[-1]:
        return rotate(x, rotation)
    return mx.concatenate([rotate(x[..., :width], rotation), x[..., width:]], axis=-1)
