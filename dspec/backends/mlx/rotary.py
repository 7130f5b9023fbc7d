"""Rotary positions: the frequencies of a drafter are its target's, the layout is two halves (neox)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from dspec.block_config import BlockModelConfig
from dspec.config import DrafterConfig
from dspec.errors import ConfigError, explain

Rotation = tuple[mx.array, mx.array]  # cosines and sines, (B, 1, S, head_dim)
Found = tuple[np.ndarray, float]  # angles per position, factor on cosines and sines


class Rotary:
    """Cosines and sines by position.

    No module and no weight: a drafter converted to a narrower dtype must not narrow its frequencies.

    Args:
        config: of the drafter or block-diffusion model.
    """

    def __init__(self, config: DrafterConfig | BlockModelConfig) -> None:
        self._frequencies, self._scale = frequencies(config)

    def __call__(self, positions: mx.array, dtype: mx.Dtype) -> Rotation:
        """Return cosines and sines (B, 1, S, head_dim) of positions (B, S)."""
        angles = positions[:, None, :, None].astype(mx.float32) * self._frequencies
        angles = mx.concatenate([angles, angles], axis=-1)
        return (mx.cos(angles) * self._scale).astype(dtype), (mx.sin(angles) * self._scale).astype(dtype)


def frequencies(config: DrafterConfig | BlockModelConfig) -> tuple[mx.array, float]:
    """Return (head_dim / 2,) float32 angles per position, and a factor on cosines and sines.

    Those that transformers gives, whose own functions need torch; in float64 but for the exponents.

    Spec: BD-6.

    Args:
        config: rope_theta, rope_scaling, head_dim and max_position_embeddings are read.

    Raises:
        ConfigError: a kind of scaling that is not built.
    """
    scaling = dict(config.rope_scaling or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in KINDS:
        raise ConfigError(explain("rope_scaling", repr(kind), "one of " + ", ".join(KINDS), clause="BD-6"))
    # The exponents are rounded as transformers rounds them: at base 1e6 that moves an angle by 4e-7 of it.
    steps = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    plain = config.rope_theta ** -steps.astype(np.float64)
    found, scale = KINDS[kind](plain, scaling, config)
    return mx.array(found.astype(np.float32)), scale


def rotate(x: mx.array, rotation: Rotation) -> mx.array:
    """Return queries or keys (B, H, S, d) turned by their positions.

    Example:
        >>> quarter = (mx.zeros((1, 1, 1, 2)), mx.ones((1, 1, 1, 2)))
        >>> rotate(mx.array([[[[1.0, 0.0]]]]), quarter).tolist()
        [[[[0.0, 1.0]]]]
    """
    cos, sin = rotation
    first, second = mx.split(x, 2, axis=-1)
    return x * cos + mx.concatenate([-second, first], axis=-1) * sin


def _default(
    plain: np.ndarray, scaling: Mapping[str, Any], config: DrafterConfig | BlockModelConfig
) -> Found:
    return plain, 1.0


def _linear(plain: np.ndarray, scaling: Mapping[str, Any], config: DrafterConfig | BlockModelConfig) -> Found:
    return plain / scaling["factor"], 1.0


def _llama3(plain: np.ndarray, scaling: Mapping[str, Any], config: DrafterConfig | BlockModelConfig) -> Found:
    """Long waves slowed by the factor, short ones kept, those between blended by their turns."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = _trained_length(scaling, config) * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (kept + (1 - kept) / scaling["factor"]) * plain, 1.0


def _yarn(plain: np.ndarray, scaling: Mapping[str, Any], config: DrafterConfig | BlockModelConfig) -> Found:
    """Pairs before `first` kept, from `last` on slowed by the factor, a ramp between.

    Source: arXiv 2309.00071, section 3.2.
    """
    trained, width = _trained_length(scaling, config), config.head_dim
    factor = scaling["factor"]
    turns = scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1
    octaves = 2 * math.log(config.rope_theta)
    first, last = (width * math.log(trained / (n * 2 * math.pi)) / octaves for n in turns)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    ramp = (np.arange(len(plain)) - first) / (last - first or 0.001)
    slowed = np.clip(ramp, 0.0, 1.0)
    return (slowed / factor + 1 - slowed) * plain, _yarn_scale(scaling, factor)


def _yarn_scale(scaling: Mapping[str, Any], factor: float) -> float:
    """Return the factor on cosines and sines: as stated, or what the growth of the length gives."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    growth = 0.1 * math.log(factor) if factor > 1 else 0.0
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return (growth * above + 1) / (growth * below + 1) if above and below else growth + 1


# The kinds that a config lets pass.
KINDS: dict[str, Callable[[np.ndarray, Mapping[str, Any], DrafterConfig | BlockModelConfig], Found]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def _trained_length(scaling: Mapping[str, Any], config: DrafterConfig | BlockModelConfig) -> float:
    """Return the length before scaling; left out, it is the config's, as transformers fills it in."""
    return scaling.get("original_max_position_embeddings", config.max_position_embeddings)
