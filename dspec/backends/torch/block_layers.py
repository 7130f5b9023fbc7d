"""The layers of a block-diffusion model; attribute names are those of Qwen's published tensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dspec.backends.torch.block_experts import SparseMlp
from dspec.backends.torch.drafter_layers import Gather, Linear, Mlp, Norm
from dspec.backends.torch.rotary import Rotation, rotate
from dspec.block_config import BlockModelConfig


class BiasedLinear(Linear):
    """A product with a matrix, and a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.bias = nn.Parameter(torch.full((n_out,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., n_out) for (..., n_in)."""
        return functional.linear(x, self.weight, self.bias)


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

    def keys_values(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Return keys and values (R, H, P, d) of normed slots (R, P, D)."""
        keys = self._turned(self.k_proj(x), self.k_norm, rotation)
        values = self._heads(self.v_proj(x)).transpose(1, 2)
        return keys, values

    def forward(
        self, x: Tensor, rotation: Rotation, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return (R, P, D): what the slots read from keys and values (R, H, N, d); mask: see `fold`."""
        queries = self._turned(self.q_proj(x), self.q_norm, rotation)
        read = attend_folded(queries, keys, values, mask)
        return self.o_proj(read.transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor, norm: Norm | None, rotation: Rotation) -> Tensor:
        heads = self._heads(x)
        return turn((heads if norm is None else norm(heads)).transpose(1, 2), rotation)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


class BlockLayer(nn.Module):
    """Attention and MLP or experts, each behind a norm and beside the residual stream."""

    def __init__(self, config: BlockModelConfig, *, sparse: bool) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = BlockAttention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SparseMlp(config) if sparse else Mlp(config)

    def forward(self, hidden: Tensor, rotation: Rotation, gather: Gather, mask: Tensor | None) -> Tensor:
        """Return (R, P, D) for the slots' (R, P, D); `gather` joins the cached keys and values."""
        x = self.input_layernorm(hidden)
        keys, values = gather(*self.self_attn.keys_values(x, rotation))
        hidden = hidden + self.self_attn(x, rotation, keys, values, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def turn(x: Tensor, rotation: Rotation) -> Tensor:
    """Return queries or keys (R, H, P, d), their leading entries turned by their positions.

    Args:
        x: queries or keys.
        rotation: cosines and sines as wide as the turned part.

    Example:
        >>> quarter = (torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        >>> turn(torch.tensor([[[[1.0, 0.0, 5.0]]]]), quarter).tolist()
        [[[[0.0, 1.0, 5.0]]]]
    """
    width = rotation[0].shape[-1]
    if width == x.shape[-1]:
        return rotate(x, rotation)
    return torch.cat([rotate(x[..., :width], rotation), x[..., width:]], dim=-1)


def fold(mask: Tensor, repeats: int) -> Tensor:
    """Return a mask for `attend_folded`: once for every query head of a key head.

    Args:
        mask: (R, P, N) bool, True where a slot may look.
        repeats: query heads a key head.

    Returns:
        (R, 1, repeats * P, N) bool.
    """
    return mask[:, None].expand(-1, repeats, -1, -1).flatten(1, 2)[:, None]


def attend_folded(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(queries keys^T / sqrt(d)) values, each key head serving several query heads.

    The query heads of a key head stand as further slots of it. CUDA has no fast kernel for grouped
    heads beside a mask, and repeating the keys would copy the cache in every layer of every pass.

    Args:
        queries: (R, heads, P, d).
        keys: (R, H, N, d); H divides the heads.
        values: (R, H, N, d).
        mask: (R, 1, heads / H * P, N) bool, see `fold`; None: all.

    Returns:
        (R, heads, P, d).
    """
    rows, heads, slots, width = queries.shape
    folded = queries.reshape(rows, keys.shape[1], -1, width)
    read = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return read.reshape(rows, heads, slots, width)
