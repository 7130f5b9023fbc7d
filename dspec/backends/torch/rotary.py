"""Rotary positions: the frequencies of a drafter are its target's, the layout is two halves (neox)."""

import torch
from torch import Tensor
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from dspec.block_config import BlockModelConfig
from dspec.config import DrafterConfig

Rotation = tuple[Tensor, Tensor]  # cosines and sines, (B, 1, S, head_dim)


class Rotary:
    """Cosines and sines by position.

    No module and no buffer: a drafter converted to a narrower dtype must not narrow its frequencies.

    Args:
        config: of the drafter or block-diffusion model.
    """

    def __init__(self, config: DrafterConfig | BlockModelConfig) -> None:
        self._frequencies, self._scale = frequencies(config)

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Return cosines and sines (B, 1, S, head_dim) of positions (B, S)."""
        if self._frequencies.device != positions.device:
            self._frequencies = self._frequencies.to(positions.device)
        angles = positions[:, None, :, None].float() * self._frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * self._scale).to(dtype), (angles.sin() * self._scale).to(dtype)


def frequencies(config: DrafterConfig | BlockModelConfig) -> tuple[Tensor, float]:
    """Return (head_dim / 2,) float32 angles per position, and a factor on cosines and sines.

    Spec: BD-6.

    Args:
        config: rope_theta, rope_scaling, head_dim and max_position_embeddings are read.
    """
    scaling = dict(config.rope_scaling or {})
    kind = scaling.get("rope_type", scaling.pop("type", "default"))
    if kind == "default":
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / (config.rope_theta**steps), 1.0
    # transformers fills in what a scaling leaves out, as it does for the target.
    settings = Qwen3Config(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={**scaling, "rope_type": kind, "rope_theta": config.rope_theta},
    )
    return ROPE_INIT_FUNCTIONS[kind](settings, torch.device("cpu"))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return queries or keys (B, H, S, d) turned by their positions.

    Example:
        >>> quarter = (torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), quarter).tolist()
        [[[[0.0, 1.0]]]]
    """
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
